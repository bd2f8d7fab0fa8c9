"""Every fault of a store is found, and a valid store has none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxmim.errors import StoreError
from voxmim.store.format import Case, Store
from voxmim.store.verify import verify
from voxmim.store.writing import write_case


def drop_from_index(store: Path) -> None:
    index = json.loads((store / "index.json").read_text())
    index["cases"] = [entry for entry in index["cases"] if entry["name"] != "case_1"]
    (store / "index.json").write_text(json.dumps(index))


def change_entry(key: str, value: object) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        index = json.loads((store / "index.json").read_text())
        next(entry for entry in index["cases"] if entry["name"] == "case_1")[key] = value
        (store / "index.json").write_text(json.dumps(index))

    return damage


def other_labels(store: Path) -> None:
    opened = Store(store)
    case = opened.cases["case_1"]
    label = np.where(opened.label_map("case_1") == 1, 2, 0).astype(np.uint8)
    write_case(store / "aside", case, opened.image("case_1"), label)
    shutil.move(store / "aside" / "labels" / "case_1.b2nd", store / "labels" / "case_1.b2nd")
    shutil.rmtree(store / "aside")


def flip_a_bit(kind: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        file = store / kind / "case_1.b2nd"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(content)

    return damage


def add_unlisted_file(store: Path) -> None:
    opened = Store(store)
    case = replace(opened.cases["case_1"], name="stray")
    write_case(store, case, opened.image("case_1"), None)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda s: (s / "images" / "case_1.b2nd").unlink(), r"images/case_1\.b2nd: this file of the store is missing"),
    (lambda s: (s / "labels" / "case_1.b2nd").unlink(), r"labels/case_1\.b2nd: this file of the store is missing"),
    (lambda s: (s / "images" / "case_1.b2nd").write_bytes(b"junk"), r"images/case_1\.b2nd: .*damaged"),
    (flip_a_bit("images"), r"case_1\.b2nd: "),
    (flip_a_bit("labels"), r"case_1\.b2nd: "),
    (other_labels, r"images/case_1\.b2nd: voxels or labels are not those that were written"),
    (change_entry("digest", "0123"), r"images/case_1\.b2nd: the index has another digest than the file"),
    (change_entry("shape", [1, 2, 3]), r"images/case_1\.b2nd: .*damaged \(it holds"),
    (change_entry("counts", {"1": 5}), r"images/case_1\.b2nd: the index has another counts than the file"),
    (add_unlisted_file, r"images/stray\.b2nd: this file is of no case in the index"),
    (lambda s: (s / "labels" / "notes.txt").touch(), r"labels/notes\.txt: this file is of no case in the index"),
    (lambda s: (s / "images" / ".77-case_9.b2nd").touch(), r"\.77-case_9\.b2nd: this file was never finished"),
]


@pytest.fixture
def store(tiny: object, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.store, tmp_path / "store"))  # type: ignore[attr-defined]


def test_a_valid_store_has_no_faults(store: Path) -> None:
    assert verify(store, workers=1) == []


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_each_fault_is_found_and_no_other(store: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(store)
    faults = verify(store, workers=1)
    assert len(faults) == 1
    assert re.search(message, faults[0])


def test_files_of_a_case_that_is_missing_in_the_index_are_reported(store: Path) -> None:
    drop_from_index(store)
    faults = verify(store, workers=1)
    assert [fault.split(": ")[0].rsplit("/", 2)[1] for fault in faults] == ["images", "labels"]


def test_a_folder_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this is not a store"):
        verify(tmp_path)


def test_label_counts_are_recomputed(store: Path) -> None:
    """The index and the file have the same wrong counts and the right digest."""
    opened = Store(store)
    case = opened.cases["case_1"]
    wrong = {**case.counts, 1: case.counts[1] + 1}
    real = Case.from_dict

    def with_wrong_counts(values: dict[str, object]) -> Case:
        made = real(values)
        return replace(made, counts=wrong) if made.name == "case_1" else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Case, "from_dict", staticmethod(with_wrong_counts))
        faults = verify(store, workers=1)
    assert len(faults) == 1
    assert "labels/case_1.b2nd: label counts or samples are not those of its voxels" in faults[0]

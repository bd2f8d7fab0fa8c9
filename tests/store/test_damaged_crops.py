"""The stream of crops with unreadable scans: other scans take their turns, and the unreadable ones are recorded."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stores import PLAN, VIEWS, VOXELS, make_store, same
from voxmim.errors import StoreError
from voxmim.store.crops import CropPlan, Crops, batches
from voxmim.store.format import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", VOXELS)


def stream(store: Store, plan: CropPlan = PLAN, damaged: dict[str, str] | None = None) -> Crops:
    return Crops(store, list(store.cases.values()), plan, damaged)


def remove(store: Store, name: str) -> None:
    (store.path / "images" / f"{name}.b2nd").unlink()


# Digests of the first 40 crops if every scan can be read and no crop shows only air.
DIGESTS = {
    "labelled": (PLAN, "dfe9bf2d2b82ce7d"),
    "views": (VIEWS, "72039bc75d462873"),
    "drawn": (replace(PLAN, crops_per_scan=3, channels="drawn"), "c3118916ab622e35"),
}


@pytest.mark.parametrize("kind", DIGESTS)
def test_the_stream_of_undamaged_scans_is_unchanged(store: Store, kind: str) -> None:
    plan, expected = DIGESTS[kind]
    digest, crops = hashlib.blake2b(digest_size=8), stream(store, plan)
    for image, label, seed, name, present in map(crops.__getitem__, range(40)):
        for part in (image.numpy(), label.numpy(), np.int64(seed), present.numpy()):
            digest.update(part.tobytes())
        digest.update(name.encode())
    assert digest.hexdigest() == expected
    assert crops.damaged == {}


def test_other_scans_take_the_turns_of_a_damaged_scan(store: Store) -> None:
    whole = [stream(store)[number] for number in range(40)]
    remove(store, "case_1")
    damaged: dict[str, str] = {}
    crops = stream(store, damaged=damaged)
    rows = [crops[number] for number in range(40)]
    replacements = [row[3] for row, before in zip(rows, whole, strict=True) if before[3] == "case_1"]
    assert len(replacements) == 8
    assert len(set(replacements)) > 1
    assert "case_1" not in replacements
    assert all(same(row, before) for row, before in zip(rows, whole, strict=True) if before[3] != "case_1")
    assert list(damaged) == ["case_1"]
    assert "case_1.b2nd: this file of the store is missing" in damaged["case_1"]
    backward = stream(store)
    assert all(same(backward[number], rows[number]) for number in reversed(range(40)))


def test_a_damaged_scan_is_not_read_again_and_does_not_change_the_rest(store: Store) -> None:
    first = stream(store, damaged={"case_1": "it was damaged"})
    rows = [first[number] for number in range(40)]
    assert all(row[3] != "case_1" for row in rows)
    more = stream(store, damaged={"case_1": "", "case_3": ""})
    for number, row in enumerate(rows):
        assert row[3] == "case_3" or same(more[number], row)


def test_two_views_come_from_one_scan_even_if_only_one_cannot_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = Store.crop, []

    def second_fails(
        self: Store, name: str, start: tuple[int, ...], size: tuple[int, ...], expected: int = 1
    ) -> np.ndarray:
        if name == "case_2":
            reads.append(name)
            if len(reads) == 2:
                raise StoreError("a part of case_2 is damaged")
        return read(self, name, start, size, expected)

    monkeypatch.setattr(Store, "crop", second_fails)
    crops = stream(store, VIEWS)
    for batch in batches(crops, 4, 0, 10):
        assert batch.names[0::2] == batch.names[1::2]
        assert "case_2" not in batch.names
    assert crops.damaged == {"case_2": "a part of case_2 is damaged"}


def test_damaged_scans_are_recorded(store: Store) -> None:
    remove(store, "case_0")
    (store.path / "labels" / "case_3.b2nd").write_bytes(b"")
    crops = stream(store)
    names = [name for batch in batches(crops, 2, 0, 12) for name in batch.names]
    assert set(names) == {"case_1", "case_2", "case_4"}
    assert set(crops.damaged) == {"case_0", "case_3"}


def test_a_stream_without_readable_scans_ends_with_an_error(store: Store) -> None:
    for name in VOXELS:
        remove(store, name)
    with pytest.raises(StoreError, match=r"store: none of 5 scans can be read; run 'voxmim prepare' again"):
        stream(store)[0]

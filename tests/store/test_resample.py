from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Tiny
from voxmim.errors import ScanError
from voxmim.store import resample as module
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.store.resample import respace
from voxmim.store.split import split


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxmim.workers.cores", lambda: 1)


def test_resampling_a_store_equals_preparing_the_source_at_that_spacing(tiny: Tiny, tmp_path: Path) -> None:
    ours = respace(Store(tiny.store), tmp_path / "ours", (1.5, 1.5, 2.0))
    theirs = Store(prepare(tiny.source, tmp_path / "theirs", (1.5, 1.5, 2.0), workers=1, quiet=True).store)
    assert ours.preparation == theirs.preparation
    assert ours.digest() == theirs.digest()  # voxels, labels and splits
    assert (ours.name, ours.labels, ours.seed) == (theirs.name, theirs.labels, theirs.seed)
    for case in theirs.cases.values():
        np.testing.assert_array_equal(ours.image(case.name), theirs.image(case.name))


def test_resampled_cases_that_exist_are_kept(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = respace(Store(tiny.store), tmp_path / "out", (2.0, 2.0, 2.0))
    (tmp_path / "out" / "images" / "case_1.b2nd").unlink()
    done: list[str] = []
    real: Callable[..., object] = module._prepare
    monkeypatch.setattr(module, "_prepare", lambda case, **options: done.append(case.name) or real(case, **options))
    again = respace(Store(tiny.store), tmp_path / "out", (2.0, 2.0, 2.0))
    assert done == ["case_1"]
    assert again.digest() == first.digest()


def test_changes_of_the_store_are_followed(tiny: Tiny, tmp_path: Path) -> None:
    source = shutil.copytree(tiny.source, tmp_path / "source")
    store = Store(prepare(source, tmp_path / "store", workers=1, quiet=True).store)
    respace(store, tmp_path / "out", (2.0, 2.0, 2.0))
    file = source / "imagesTr" / "case_1.nii.gz"
    os.utime(file, ns=(1, 1))
    prepare(source, store.path, workers=1, quiet=True)
    names = list(store.cases)
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[1:], "test": names[:1]}))
    split(store.path, tmp_path / "splits.json")
    again = respace(Store(store.path), tmp_path / "out", (2.0, 2.0, 2.0))
    assert {name: case.split for name, case in again.cases.items()} == {names[0]: "test"} | dict.fromkeys(
        names[1:], "train"
    )
    assert again.cases["case_1"].stamps == Store(store.path).cases["case_1"].stamps != store.cases["case_1"].stamps


def test_a_missing_source_file_is_reported_in_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    source = shutil.copytree(tiny.source, tmp_path / "source")
    store = Store(prepare(source, tmp_path / "store", workers=1, quiet=True).store)
    (source / "imagesTr" / "case_2.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"case_2\.nii\.gz"):
        respace(store, tmp_path / "out", (2.0, 2.0, 2.0))

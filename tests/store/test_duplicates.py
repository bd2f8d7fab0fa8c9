"""Of scans with the same voxels, one is kept, and the others are dropped before resampling."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxmim.images.volume import Volume, read_volume, write_volume
from voxmim.store import prepare as module
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.store.verify import verify

Maker = Callable[..., Path]


@pytest.fixture
def resampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scans that were resampled."""
    names: list[str] = []
    real = module.prepare_volume

    def record(volume: object, preparation: object, path: Path, *rest: object) -> object:
        names.append(path.name.split(".")[0])
        return real(volume, preparation, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "prepare_volume", record)
    return names


def copy_as_float(source: Path, name: str) -> None:
    """Write the voxels of case_1 to another file in another format and type."""
    scan = read_volume(source / "imagesTr" / "case_1.nii.gz")
    write_volume(source / "imagesTr" / f"{name}.nii", Volume(scan.array.astype(np.float32), scan.affine))


def test_a_duplicate_is_not_resampled(tiny_source: Maker, tmp_path: Path, resampled: list[str]) -> None:
    source = tiny_source(cases=3)
    copy_as_float(source, "copy")
    for _ in range(2):  # the second time, the original is already in the store
        result = prepare(source, tmp_path / "store", workers=1, quiet=True)
        assert [name for name, _ in result.failed] == ["copy"]
        assert [finding.kind for finding in result.findings] == ["duplicate"]
        assert sorted(resampled) == ["case_0", "case_1", "case_2"]
        assert list(Store(result.store).cases) == ["case_0", "case_1", "case_2"]
        assert verify(result.store, workers=1) == []


def test_the_labelled_duplicate_is_kept_in_any_order(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=2)
    copy_as_float(source, "a_copy")
    for workers in (1, 2):
        result = prepare(source, tmp_path / f"store_{workers}", workers=workers, quiet=True)
        assert list(Store(result.store).cases) == ["case_0", "case_1"]
        assert verify(result.store, workers=1) == []


def test_a_duplicate_of_a_scan_that_fails_is_left_out(
    tiny_source: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_source(cases=2)
    copy_as_float(source, "copy")
    real = module.prepare_volume

    def fail(volume: object, preparation: object, path: Path, *rest: object) -> object:
        if path.name.startswith("case_1"):
            raise MemoryError
        return real(volume, preparation, path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare_volume", fail)
        result = prepare(source, tmp_path / "store", workers=1, quiet=True)
    assert list(Store(result.store).cases) == ["case_0"]
    assert [(finding.kind, finding.action) for finding in result.findings] == [("failed", "left out")] * 2
    again = prepare(source, tmp_path / "store", workers=1, quiet=True)
    assert list(Store(again.store).cases) == ["case_0", "case_1"]
    assert verify(again.store, workers=1) == []


def test_a_copy_in_another_source_is_a_duplicate(tiny_source: Maker, tmp_path: Path, resampled: list[str]) -> None:
    source = tiny_source(cases=2)
    prepare(source, tmp_path / "store", workers=1, quiet=True)
    more = tiny_source("more", cases=1, shape=(20, 18, 17))
    shutil.move(more / "imagesTr" / "case_0.nii.gz", more / "imagesTr" / "new.nii.gz")
    shutil.move(more / "labelsTr" / "case_0.nii.gz", more / "labelsTr" / "new.nii.gz")
    shutil.copy(source / "imagesTr" / "case_0.nii.gz", more / "imagesTr" / "again.nii.gz")
    result = prepare(more, tmp_path / "store", workers=1, quiet=True)
    assert resampled == ["case_0", "case_1", "new"]
    assert [name for name, _ in result.failed] == ["again"]

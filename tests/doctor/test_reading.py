"""Channels in separate files, on one grid or interpolated to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxmim.doctor.reading import judge_channels, read_channels
from voxmim.errors import ScanError, StoreError
from voxmim.findings import Finding
from voxmim.images.volume import Volume, write_volume
from voxmim.store.format import Store
from voxmim.store.prepare import prepare, prepare_scan

FIRST = np.diag([1.0, 1.0, 2.0, 1.0])
OTHER = np.array([[0, -1.5, 0, 20.0], [1.2, 0, 0, 0.5], [0, 0, 1.7, 1.0], [0, 0, 0, 1]])  # rotated, coarser, shifted


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """Values that increase linearly in world coordinates, which linear interpolation reproduces."""
    world = np.moveaxis(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")), 0, -1) @ affine[:3, :3].T
    world += affine[:3, 3]
    return Volume((world @ [3.0, -2.0, 5.0] + 100)[None].astype(np.float32), affine)


def write_two_channels(folder: Path) -> list[Path]:
    write_volume(folder / "a_0000.nii.gz", ramp((16, 14, 10), FIRST))
    write_volume(folder / "a_0001.nii.gz", ramp((14, 16, 14), OTHER))
    return [folder / "a_0000.nii.gz", folder / "a_0001.nii.gz"]


def test_channels_on_one_grid_are_stacked_unchanged(tmp_path: Path) -> None:
    files = write_two_channels(tmp_path)
    write_volume(files[1], Volume(-ramp((16, 14, 10), FIRST).array, FIRST))
    for match in (False, True):
        volume = read_channels(files, 2, match)
        np.testing.assert_array_equal(volume.array[1], -volume.array[0])


def test_another_grid_is_refused_or_interpolated_in_world_coordinates(tmp_path: Path) -> None:
    files = write_two_channels(tmp_path)
    with pytest.raises(ScanError, match=r"a_0001\.nii\.gz: its shape .*, or prepare with --match-channels\.$"):
        read_channels(files, 2)
    findings: list[Finding] = []
    volume = judge_channels(files, 2, True, findings)
    assert volume is not None
    assert [finding.reason for finding in findings] == [
        f"{files[1]}: its voxels are interpolated on those of a_0000.nii.gz."
    ]
    np.testing.assert_array_equal(volume.affine, FIRST)
    inside = volume.array[1] > volume.array[1].min()  # outside the second channel, its lowest value is used
    assert 0.5 < inside.mean() < 1
    error = np.abs(volume.array[1] - volume.array[0])[inside]
    assert np.quantile(error, 0.8) < 1e-3


def test_channels_that_do_not_overlap_are_refused(tmp_path: Path) -> None:
    files = write_two_channels(tmp_path)
    far = OTHER.copy()
    far[0, 3] = 900
    write_volume(files[1], ramp((14, 16, 14), far))
    with pytest.raises(ScanError, match=r"a_0001\.nii\.gz: no voxel lies where those of a_0000\.nii\.gz do"):
        read_channels(files, 2, match=True)


def test_a_store_remembers_match_channels(tmp_path: Path) -> None:
    (tmp_path / "in" / "imagesTr").mkdir(parents=True)
    files = write_two_channels(tmp_path / "in" / "imagesTr")
    (tmp_path / "in" / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2"}, "labels": {}}')
    with pytest.raises(StoreError, match="none of 1 case could be prepared"):
        prepare(tmp_path / "in", tmp_path / "refused", intensity="mr", workers=1, quiet=True)
    result = prepare(tmp_path / "in", tmp_path / "out", intensity="mr", workers=1, quiet=True, match_channels=True)
    assert any("interpolated on those of" in finding.reason for finding in result.findings)
    store = Store(tmp_path / "out")
    assert store.preparation.match_channels
    np.testing.assert_array_equal(store.image("a"), prepare_scan(files, store.preparation).image)
    assert prepare(tmp_path / "in", tmp_path / "out", workers=1, quiet=True).skipped_already == 1
    with pytest.raises(StoreError, match="this store has match_channels True, but False is requested"):
        prepare(tmp_path / "in", tmp_path / "out", workers=1, quiet=True, match_channels=False)

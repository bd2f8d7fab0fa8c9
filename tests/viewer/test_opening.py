"""From a path to the items of the viewer."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_files import voxels, write_series
from voxmim.errors import SourceError
from voxmim.images.grid import Volume
from voxmim.images.volume import write_volume
from voxmim.viewer.opening import open_collection

AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.2, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])


def write_scan(path: Path, seed: int, channels: int = 1) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(-1000, 1000, (channels, 16, 17, 18)).astype(np.int16)
    write_volume(path, Volume(voxels, AFFINE))
    return voxels


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_scan_of_any_format_is_one_item(tmp_path: Path, ending: str) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (18, 17, 16)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin((3, 4, 5))
    sitk.WriteImage(image, tmp_path / f"scan{ending}")
    (item,) = open_collection(tmp_path / f"scan{ending}").items
    volume = item.panels[0].layers[0].read()
    np.testing.assert_array_equal(volume.array[0], voxels.transpose())
    np.testing.assert_allclose(volume.affine[:3, 3], [-3, -4, 5])


def test_a_dicom_series_is_one_item(tmp_path: Path) -> None:
    write_series(tmp_path / "series", voxels(9))
    (item,) = open_collection(tmp_path / "series").items
    volume = item.panels[0].layers[0].read()
    assert sorted(volume.array.shape[1:]) == [7, 8, 9]


def test_each_channel_is_a_layer(tmp_path: Path) -> None:
    voxels = write_scan(tmp_path / "scan.nii.gz", 0, channels=3)
    (item,) = open_collection(tmp_path / "scan.nii.gz").items
    assert [layer.name for layer in item.panels[0].layers] == ["channel 1", "channel 2", "channel 3"]
    np.testing.assert_array_equal(item.panels[0].layers[2].read().array[0], voxels[2])


def test_findings_of_a_folder_are_shown_with_their_scans(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans" / "good.nii.gz", 0)
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"no image")
    collection = open_collection(tmp_path / "scans")
    deadline = time.monotonic() + 60
    while collection.checking and time.monotonic() < deadline:
        time.sleep(0.05)
    kinds = {
        item.name: [one.action for one in collection.findings if one.file in item.files] for item in collection.items
    }
    assert kinds == {"good": [], "bad": ["left out"]}


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: there is no such file or folder"):
        open_collection(tmp_path / "nowhere")

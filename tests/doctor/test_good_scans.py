"""Valid scans of every format, orientation and source: no findings, and each is prepared at the right place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import write_series
from scan_files import AFFINE, MARK_HU, OBLIQUE, reorient, scan, write
from voxmim.doctor.inspect import inspect_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare, prepare_scan

KINDS = {"nifti1.nii.gz": nib.Nifti1Image, "plain.nii": nib.Nifti1Image, "pair.img": nib.Nifti1Pair,
         "nifti2.nii.gz": nib.Nifti2Image, "nifti2_plain.nii": nib.Nifti2Image}  # fmt: skip
NAMES = [*KINDS, "a.nrrd", "a.nhdr", "a.mha", "a.mhd"]


def assert_marker_stays_at(source: Path, out: Path, mark: np.ndarray) -> None:
    """Check that there are no findings and that the marker is at `mark` (mm) after preparing."""
    assert inspect_source(source, workers=1).findings == []
    store = Store(prepare(source, out, (1.0, 1.2, 1.5), "ct", workers=1, quiet=True).store)
    (case,) = store.cases.values()
    image = store.image(case.name)[0].astype(float)
    bright = np.argwhere(image > 0.6 * image.max())
    voxel = np.average(bright, axis=0, weights=image[tuple(bright.T)])
    centre = prepare_scan(case.image, store.preparation).grid.affine @ [*voxel, 1]
    assert np.linalg.norm(centre[:3] - mark) < 1.0


def world_position_of_marker(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return (affine @ [*np.argwhere(array == MARK_HU)[0], 1])[:3]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_every_format_is_prepared_in_place(tmp_path: Path, name: str, affine: np.ndarray) -> None:
    array, new_affine = reorient(scan(1)[0], affine, "LPS")
    write(tmp_path / "source" / "deep" / "er" / name, array, new_affine, KINDS.get(name, nib.Nifti1Image))
    assert_marker_stays_at(tmp_path / "source", tmp_path / "store", world_position_of_marker(array, new_affine))


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL", "RAS"])
def test_every_orientation_is_prepared_in_place(tmp_path: Path, axes: str) -> None:
    array, affine = reorient(scan(1)[0], AFFINE, axes)
    write(tmp_path / "source" / "a.nii.gz", array, affine)
    assert_marker_stays_at(tmp_path / "source", tmp_path / "store", world_position_of_marker(array, affine))


def test_a_dicom_series_is_prepared_in_place(tmp_path: Path) -> None:
    array = scan(1)[0]
    write_series(tmp_path / "source" / "series", array, uid="1.2.5")
    affine = np.diag([-0.8, -0.7, 2.5, 1])  # the spacing of these slices; DICOM's axes point left and posterior
    affine[:3, 3] = -3, -4, 5
    assert_marker_stays_at(tmp_path / "source", tmp_path / "store", world_position_of_marker(array, affine))


def test_files_of_the_same_name_in_different_folders_are_separate_scans(tmp_path: Path) -> None:
    for index, name in enumerate(("ward 1/a.nrrd", "ward 2/a.nii.gz")):
        write(tmp_path / name, scan(index)[0])
    inspection = inspect_source(tmp_path, workers=1)
    assert inspection.findings == []
    assert len(inspection.facts) == 2

"""Good scans of every format, orientation and kind of source: none is blamed, and each is prepared in its place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import write_series
from scan_files import AFFINE, MARK_HU, OBLIQUE, scan, turned, write
from voxmim.doctor.inspect import inspect_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare, prepare_scan

KINDS = {"nifti1.nii.gz": nib.Nifti1Image, "plain.nii": nib.Nifti1Image, "pair.img": nib.Nifti1Pair,
         "nifti2.nii.gz": nib.Nifti2Image, "nifti2_plain.nii": nib.Nifti2Image}  # fmt: skip
NAMES = [*KINDS, "a.nrrd", "a.nhdr", "a.mha", "a.mhd"]


def assert_kept_in_place(source: Path, out: Path, mark: np.ndarray) -> None:
    """Nothing is found, and the marker lies at `mark` in the world."""
    assert inspect_source(source, workers=1).findings == []
    store = Store(prepare(source, out, (1.0, 1.2, 1.5), "ct", workers=1, quiet=True).store)
    (case,) = store.cases.values()
    image = store.image(case.name)[0].astype(float)
    hot = np.argwhere(image > 0.6 * image.max())
    where = np.average(hot, axis=0, weights=image[tuple(hot.T)])
    found = prepare_scan(case.image, store.preparation).grid.affine @ [*where, 1]
    assert np.linalg.norm(found[:3] - mark) < 1.0


def mark_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return (affine @ [*np.argwhere(array == MARK_HU)[0], 1])[:3]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_every_format(tmp_path: Path, name: str, affine: np.ndarray) -> None:
    array, turned_affine = turned(scan(1)[0], affine, "LPS")
    write(tmp_path / "source" / "deep" / "er" / name, array, turned_affine, KINDS.get(name, nib.Nifti1Image))
    assert_kept_in_place(tmp_path / "source", tmp_path / "store", mark_of(array, turned_affine))


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL", "RAS"])
def test_every_orientation(tmp_path: Path, axes: str) -> None:
    array, affine = turned(scan(1)[0], AFFINE, axes)
    write(tmp_path / "source" / "a.nii.gz", array, affine)
    assert_kept_in_place(tmp_path / "source", tmp_path / "store", mark_of(array, affine))


def test_a_dicom_series(tmp_path: Path) -> None:
    array = scan(1)[0]
    write_series(tmp_path / "source" / "series", array, uid="1.2.5")
    affine = np.diag([-0.8, -0.7, 2.5, 1])  # the spacing of these slices; DICOM's axes point left and posterior
    affine[:3, 3] = -3, -4, 5
    assert_kept_in_place(tmp_path / "source", tmp_path / "store", mark_of(array, affine))


def test_two_files_of_one_name_in_different_folders(tmp_path: Path) -> None:
    for index, name in enumerate(("ward 1/a.nrrd", "ward 2/a.nii.gz")):
        write(tmp_path / name, scan(index)[0])
    inspection = inspect_source(tmp_path, workers=1)
    assert inspection.findings == []
    assert len(inspection.facts) == 2

"""`voxmim predict --format dicom-seg`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import nibabel as nib
import numpy as np

from conftest import tiny_case
from dicom_files import OBLIQUE, write_series
from voxmim.api import results
from voxmim.images.volume import open_image
from voxmim.tasks.given import Written
from voxmim.tasks.segmentation.predict import ENDINGS

RunVoxmim = Callable[..., tuple[int, str, str]]


def test_a_series_gets_a_segmentation_equal_to_the_nifti(
    tmp_path: Path, fake_segmentor: Callable[..., None], run_voxmim: RunVoxmim
) -> None:
    scan = tmp_path / "scan"
    write_series(scan, tiny_case(0, (20, 18, 16))[0], orientation=OBLIQUE)
    fake_segmentor()
    assert run_voxmim("predict", "run", scan, "--out", tmp_path / "nifti")[0] == 0
    status, output, _ = run_voxmim("predict", "run", scan, "--out", tmp_path / "dicom", "--format", "dicom-seg")
    assert status == 0
    assert "1 label map" in output
    label = open_image(tmp_path / "dicom" / "scan.dcm").read_label(open_image(scan).grid).array[0]
    assert set(np.unique(label)) == {0, 1, 2}
    np.testing.assert_array_equal(label, np.asarray(nib.load(tmp_path / "nifti" / "scan.nii.gz").dataobj))


def test_a_scan_that_is_not_dicom_is_refused(
    tmp_path: Path, fake_segmentor: Callable[..., None], write_scan: Callable[..., Path], run_voxmim: RunVoxmim
) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", tiny_case(0, (20, 18, 16))[0])
    fake_segmentor()
    status, _, error = run_voxmim("predict", "run", scan, "--out", tmp_path / "out", "--format", "dicom-seg")
    assert status == 2
    assert f"{scan}: a DICOM segmentation must refer to a DICOM series, which this is not; write NIfTI." in error
    assert not (tmp_path / "out").exists()


def test_the_option_offers_every_format() -> None:
    hints = get_type_hints(results.predict, localns={"Written": Written})
    assert get_args(hints["label_format"]) == tuple(ENDINGS)

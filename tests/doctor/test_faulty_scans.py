"""One faulty scan among valid ones: the fault is found, and nothing else is reported."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scan_files import AFFINE, add_pair, cut, patch, scan, write_pairs
from voxmim.doctor.inspect import inspect_source

SHEAR = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float32)
        image[5, 5, 5:9] = value
        return image

    return change


VOXELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, str]] = {
    "NaN": (with_value(np.nan), "not finite", "left out"),
    "infinity": (with_value(np.inf), "not finite", "left out"),
    "one value": (np.zeros_like, "constant", "left out"),
    "two volumes": (lambda a: np.stack([a, a + 1], axis=-1), "4D", "left out"),
    "a last axis of one voxel": (lambda a: a[..., None], "4D", "repaired"),
    "one slice": (lambda a: a[:, :, :1], "tiny", "left out"),
    "complex numbers": (lambda a: a.astype(np.complex64), "unreadable", "left out"),
    "values of MR": (lambda a: np.maximum(a + 1000, 0), "intensity rule", "used"),
}


def sheared(file: Path) -> None:
    image = nib.Nifti1Image(scan(9)[0], AFFINE @ SHEAR)
    image.header.set_sform(image.affine, 1)
    image.header["qform_code"] = 0
    nib.save(image, file)


def two_sided(file: Path) -> None:
    image = nib.load(file)
    image.header.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)


def huge(file: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE)
    image.header.set_data_shape((2048, 1024, 1024))
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    file.write_bytes(gzip.compress(image.header.binaryblock + b"\0" * 4))


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no image": (lambda file: file.write_bytes(b"no scan at all"), "unreadable", "left out"),
    "cut off": (cut, "cut off", "left out"),
    "more voxels than are read": (huge, "huge", "left out"),
    "a sheared affine": (sheared, "wrong orientation", "used"),
    "sform and qform of other sides": (two_sided, "wrong orientation", "used"),
    "neither sform nor qform": (lambda file: patch(file, {252: b"\0\0\0\0"}), "no orientation", "used"),
}


def findings_of(source: Path, file: Path) -> list[tuple[str, str]]:
    """Kind and action of each finding of a scan, without those of its label map, which no longer fits."""
    findings = [finding for finding in inspect_source(source, workers=1).findings if "labelsTr" not in finding.file]
    assert {finding.file for finding in findings} == {str(file)}
    for finding in findings:
        assert finding.reason.startswith(f"{file}: ")
        assert finding.reason.endswith((".", "?"))
        assert "\n" not in finding.reason
    return [(finding.kind, finding.action) for finding in findings]


@pytest.mark.parametrize("fault", VOXELS)
def test_wrong_voxels_are_found(tmp_path: Path, fault: str) -> None:
    change, kind, action = VOXELS[fault]
    source = write_pairs(tmp_path, 2)
    image, label = scan(9)
    file, _ = add_pair(source, "bad", change(image), label)
    assert findings_of(source, file) == [(kind, action)]


@pytest.mark.parametrize("fault", FILES)
def test_wrong_files_are_found(tmp_path: Path, fault: str) -> None:
    damage, kind, action = FILES[fault]
    source = write_pairs(tmp_path, 2)
    file, _ = add_pair(source, "bad", *scan(9))
    damage(file)
    assert findings_of(source, file) == [(kind, action)]


def test_a_thin_scan_is_reported(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    image, label = scan(9)
    file, _ = add_pair(source, "thin", image[:, :, 8:13], label[:, :, 8:13])
    assert findings_of(source, file) == [("tiny", "used")]


def test_a_label_map_among_scans_is_reported(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    file, _ = add_pair(source, "organs", scan(9)[1], scan(9)[1])
    assert findings_of(source, file) == [("intensity rule", "used"), ("label map", "used")]

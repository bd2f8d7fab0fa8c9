"""NIfTI files written by nibabel: both versions, pairs, and the orientation in their headers."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxmim.errors import ScanError
from voxmim.images.volume import case_name, is_scan, open_image, read_volume, write_volume

ROTATED = np.array([[-0.64, 0.42, 0, 10], [0.48, 0.56, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
OTHER = np.array([[2.0, 0, 0, -7], [0, -0.7, 0, 5], [0, 0, 2.5, 1], [0, 0, 0, 1.0]])


def image(
    kind: type, affines: tuple[np.ndarray | None, np.ndarray | None], codes: tuple[int, int], order: str = "<"
) -> nib.spatialimages.SpatialImage:
    made = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None, kind.header_class(endianness=order))
    made.header.set_zooms((0.8, 0.7, 2.5))
    made.header.set_qform(affines[1], codes[1], strip_shears=False)
    made.header.set_sform(affines[0], codes[0])
    return made


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (3, 0), (0, 4)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxel_positions_agree_with_nibabel(tmp_path: Path, kind: type, codes: tuple[int, int], order: str) -> None:
    nib.save(image(kind, (ROTATED, OTHER @ np.diag([0.4, 1, 1, 1])), codes, order), tmp_path / "a.nii")
    theirs, volume = nib.load(tmp_path / "a.nii"), read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array[0], np.asarray(theirs.dataobj))
    np.testing.assert_allclose(volume.affine, theirs.affine, atol=1e-6)
    grid = open_image(tmp_path / "a.nii").grid
    assert grid.shape == (3, 4, 5)
    np.testing.assert_array_equal(grid.affine, volume.affine)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8", "u8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_2_voxels_agree_with_nibabel(tmp_path: Path, dtype: str, ending: str) -> None:
    array = (np.random.default_rng(0).random((3, 4, 5, 2)) * 100).astype(dtype)
    nib.save(nib.Nifti2Image(array, ROTATED, dtype=dtype), tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}", channels=2)
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / f"a{ending}").affine, atol=1e-6)


def test_nifti_2_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    made = nib.Nifti2Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5, 1), ROTATED)
    made.header.set_slope_inter(0.5, -1024)
    nib.save(made, tmp_path / "a.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)[..., 0]
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").array[0], stored)


def test_a_truncated_nifti_2_file_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((9, 9, 9), np.int16), ROTATED), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(content[:-1])
    with pytest.raises(ScanError, match=r"a\.nii: the file is cut off"):
        read_volume(tmp_path / "a.nii")


def test_colour_images_are_not_scans(tmp_path: Path) -> None:
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti2Image(colour, ROTATED), tmp_path / "a.nii")
    with pytest.raises(ScanError, match="not plain real numbers"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_header_and_image_pair_is_one_scan(tmp_path: Path, kind: type) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nib.save(kind(array, ROTATED), tmp_path / "a.img")
    for file in (tmp_path / "a.hdr", tmp_path / "a.img"):
        np.testing.assert_array_equal(read_volume(file).array[0], array)
        np.testing.assert_allclose(read_volume(file).affine, ROTATED, atol=1e-5)
        assert case_name(file) == "a"
    (tmp_path / "a.img").write_bytes(bytes(100))
    with pytest.raises(ScanError, match=r"a\.img: the file is cut off"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(ScanError, match=r"a\.hdr: its other half a\.img is missing"):
        read_volume(tmp_path / "a.hdr")


def test_analyze_is_refused_since_left_and_right_are_ambiguous(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(np.ones((3, 4, 5), np.int16), np.eye(4)), tmp_path / "a.img")
    with pytest.raises(ScanError, match=r"a\.hdr: an Analyze file does not say which side is left"):
        read_volume(tmp_path / "a.img")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("affines", "codes", "faults"),
    [
        ((ROTATED, ROTATED), (1, 1), []),
        ((ROTATED, None), (1, 0), []),
        ((None, ROTATED), (0, 1), []),
        ((ROTATED, None), (0, 0), ["neither sform nor qform is set"]),
        ((ROTATED @ np.diag([2, 1, 1, 1]), None), (1, 0), ["0.8 x 0.7 x 2.5 mm by pixdim, but 1.6 x 0.7 x 2.5 mm"]),
        ((ROTATED, OTHER @ np.diag([0.4, 1, 1, 1])), (1, 1), ["sform and qform differ; the sform is taken"]),
        ((ROTATED, OTHER @ np.diag([0.4, 1, 1, 1])), (2, 1), []),  # different world spaces are allowed
        ((ROTATED, OTHER @ np.diag([-0.4, 1, 1, 1])), (2, 1), ["sform and qform differ; the sform is taken"]),
        ((np.diag([0.0, 0.7, 2.5, 1]), ROTATED), (1, 1), ["its sform is not invertible, and the other one is taken"]),
        ((ROTATED @ [[1, 0, 1.875, 0], [0, 1, 0, 0], [0, 0, 0.8, 0], [0, 0, 0, 1]], None), (1, 0), ["right angles"]),
    ],
)
def test_an_unusual_orientation_is_reported(
    tmp_path: Path, kind: type, affines: tuple, codes: tuple[int, int], faults: list[str]
) -> None:
    made = image(kind, affines, codes)
    nib.save(made, tmp_path / "a.nii")
    doubts = [sentence for _, sentence in open_image(tmp_path / "a.nii").doubts]
    assert len(doubts) == len(faults), doubts
    assert all(fault in sentence for fault, sentence in zip(faults, doubts, strict=True)), doubts


def test_an_affine_that_is_not_invertible_is_refused(tmp_path: Path) -> None:
    nib.save(image(nib.Nifti1Image, (np.diag([0.0, 0.7, 2.5, 1]), None), (1, 0)), tmp_path / "a.nii")
    with pytest.raises(ScanError, match=r"a\.nii: its sform is not invertible; repair the header"):
        open_image(tmp_path / "a.nii")


def patched(path: Path, kind: type, changes: dict[str, object], codes: tuple[int, int] = (1, 1)) -> Path:
    """Write the volume of `image` at ROTATED with header fields that nibabel would not write."""
    made = image(kind, (ROTATED, ROTATED), codes)
    content = bytearray(made.to_bytes())
    size = made.header.structarr.dtype.itemsize
    header = np.frombuffer(bytes(content[:size]), made.header.structarr.dtype).copy()
    for field, value in changes.items():
        header[field] = value
    path.write_bytes(header.tobytes() + bytes(content[size:]))
    return path


KINDS = pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@KINDS
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1)])
def test_negative_voxel_sizes_do_not_mirror_the_volume(tmp_path: Path, kind: type, codes: tuple[int, int]) -> None:
    file = patched(tmp_path / "a.nii", kind, {"pixdim": [-1, -0.8, 0.7, -2.5, 0, 0, 0, 0]}, codes)
    np.testing.assert_allclose(read_volume(file).affine, ROTATED, atol=1e-5)


@KINDS
def test_a_valid_sform_takes_precedence_over_voxel_sizes(tmp_path: Path, kind: type) -> None:
    opened = open_image(patched(tmp_path / "a.nii", kind, {"pixdim": [-1, 1, 1, 1, 0, 0, 0, 0]}))
    np.testing.assert_allclose(opened.affine, ROTATED, atol=1e-5)
    assert "but 0.8 x 0.7 x 2.5 mm by the sform, which is taken" in opened.doubts[0][1]


@KINDS
def test_the_qform_is_used_if_the_sform_is_zero(tmp_path: Path, kind: type) -> None:
    file = patched(tmp_path / "a.nii", kind, {f"srow_{axis}": np.zeros(4) for axis in "xyz"})
    np.testing.assert_allclose(read_volume(file).affine, ROTATED, atol=1e-5)


@KINDS
@pytest.mark.parametrize(("slope", "intercept"), [(0, -1024), (np.nan, np.nan), (np.nan, 5), (np.inf, 0), (1, 0)])
def test_values_without_a_valid_slope_are_not_rescaled(
    tmp_path: Path, kind: type, slope: float, intercept: float
) -> None:
    volume = read_volume(patched(tmp_path / "a.nii", kind, {"scl_slope": slope, "scl_inter": intercept}))
    np.testing.assert_array_equal(volume.array[0], ARRAY)


@KINDS
def test_a_slope_without_a_valid_intercept_is_refused(tmp_path: Path, kind: type) -> None:
    file = patched(tmp_path / "a.nii", kind, {"scl_slope": 2, "scl_inter": np.nan})
    with pytest.raises(ScanError, match=r"a\.nii: its rescale intercept is nan; repair the header"):
        read_volume(file)


@KINDS
@pytest.mark.parametrize(("code", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 0)])
def test_units_are_converted_to_mm(tmp_path: Path, kind: type, code: int, mm: float, codes: tuple[int, int]) -> None:
    plain = read_volume(patched(tmp_path / "plain.nii", kind, {}, codes)).affine
    scaled = read_volume(patched(tmp_path / "a.nii", kind, {"xyzt_units": code | 8}, codes)).affine
    np.testing.assert_allclose(scaled, np.diag([mm, mm, mm, 1]) @ plain, rtol=1e-6)


@KINDS
def test_reading_and_writing_keep_a_shear(tmp_path: Path, kind: type) -> None:
    sheared = ROTATED @ np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(image(kind, (sheared, None), (1, 0)), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, sheared, atol=1e-5)
    write_volume(tmp_path / "b.nii.gz", volume)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii.gz").affine, sheared, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
@KINDS
def test_voxels_that_are_not_real_numbers_are_refused(tmp_path: Path, kind: type, dtype: object) -> None:
    nib.save(kind(np.zeros((3, 4, 5), dtype), ROTATED), tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match=r"a\.nii\.gz: its voxels are not plain real numbers \((complex|RGB)"):
        read_volume(tmp_path / "a.nii.gz")


COMPRESSED = {
    "plain.nii.gz": lambda content: content,
    "zipped.nii": gzip.compress,
    "Mixed.Nii": lambda content: content,
    "UPPER.NII.GZ": gzip.compress,
    "twice.nii.gz": lambda content: gzip.compress(gzip.compress(content)),
    "junk_behind.nii.gz": lambda content: gzip.compress(content) + b"\r\n<html>",
    "members.nii.gz": lambda content: gzip.compress(content[:200]) + gzip.compress(content[200:]),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compression_is_detected_from_the_content_and_not_the_file_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(COMPRESSED[name](image(nib.Nifti1Image, (ROTATED, ROTATED), (1, 1)).to_bytes()))
    np.testing.assert_array_equal(read_volume(file).array[0], ARRAY)
    assert is_scan(file)


def test_a_gzip_file_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(image(nib.Nifti1Image, (ROTATED, ROTATED), (1, 1)).to_bytes()))
    content[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ScanError, match="cut off or damaged"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_file_with_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.nii"))
    file.write_bytes(image(nib.Nifti1Image, (ROTATED, ROTATED), (1, 1)).to_bytes())
    np.testing.assert_array_equal(read_volume(file).array[0], ARRAY)

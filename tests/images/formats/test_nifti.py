"""NIfTI as nibabel writes it: both versions, pairs, and what their headers say of the orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxmim.errors import ScanError
from voxmim.images.volume import case_name, open_image, read_volume

TURNED = np.array([[-0.64, 0.42, 0, 10], [0.48, 0.56, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
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
def test_voxels_lie_where_nibabel_puts_them(tmp_path: Path, kind: type, codes: tuple[int, int], order: str) -> None:
    nib.save(image(kind, (TURNED, OTHER @ np.diag([0.4, 1, 1, 1])), codes, order), tmp_path / "a.nii")
    theirs, volume = nib.load(tmp_path / "a.nii"), read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array[0], np.asarray(theirs.dataobj))
    np.testing.assert_allclose(volume.affine, theirs.affine, atol=1e-6)
    grid = open_image(tmp_path / "a.nii").grid
    assert grid.shape == (3, 4, 5)
    np.testing.assert_array_equal(grid.affine, volume.affine)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8", "u8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_of_the_second_version_are_those_of_nibabel(tmp_path: Path, dtype: str, ending: str) -> None:
    array = (np.random.default_rng(0).random((3, 4, 5, 2)) * 100).astype(dtype)
    nib.save(nib.Nifti2Image(array, TURNED, dtype=dtype), tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}", channels=2)
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / f"a{ending}").affine, atol=1e-6)


def test_slope_and_intercept_of_the_second_version(tmp_path: Path) -> None:
    made = nib.Nifti2Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5, 1), TURNED)
    made.header.set_slope_inter(0.5, -1024)
    nib.save(made, tmp_path / "a.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)[..., 0]
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").array[0], stored)


def test_a_cut_off_second_version_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((9, 9, 9), np.int16), TURNED), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(content[:-1])
    with pytest.raises(ScanError, match=r"a\.nii: the file is cut off"):
        read_volume(tmp_path / "a.nii")


def test_colours_are_no_scan(tmp_path: Path) -> None:
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti2Image(colour, TURNED), tmp_path / "a.nii")
    with pytest.raises(ScanError, match="not plain real numbers"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_is_one_scan(tmp_path: Path, kind: type) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nib.save(kind(array, TURNED), tmp_path / "a.img")
    for file in (tmp_path / "a.hdr", tmp_path / "a.img"):
        np.testing.assert_array_equal(read_volume(file).array[0], array)
        np.testing.assert_allclose(read_volume(file).affine, TURNED, atol=1e-5)
        assert case_name(file) == "a"
    (tmp_path / "a.img").write_bytes(bytes(100))
    with pytest.raises(ScanError, match=r"a\.img: the file is cut off"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(ScanError, match=r"a\.hdr: its other half a\.img is missing"):
        read_volume(tmp_path / "a.hdr")


def test_analyze_is_refused_for_its_sides(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(np.ones((3, 4, 5), np.int16), np.eye(4)), tmp_path / "a.img")
    with pytest.raises(ScanError, match=r"a\.hdr: an Analyze file does not tell left from right"):
        read_volume(tmp_path / "a.img")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("affines", "codes", "faults"),
    [
        ((TURNED, TURNED), (1, 1), []),
        ((TURNED, None), (1, 0), []),
        ((None, TURNED), (0, 1), []),
        ((TURNED, None), (0, 0), ["neither sform nor qform is set"]),
        ((TURNED @ np.diag([2, 1, 1, 1]), None), (1, 0), ["0.8 x 0.7 x 2.5 mm by pixdim, but 1.6 x 0.7 x 2.5 mm"]),
        ((TURNED, OTHER @ np.diag([0.4, 1, 1, 1])), (1, 1), ["sform and qform differ; the sform is taken"]),
        ((TURNED, OTHER @ np.diag([0.4, 1, 1, 1])), (2, 1), []),  # of two worlds, as they may be
        ((TURNED, OTHER @ np.diag([-0.4, 1, 1, 1])), (2, 1), ["sform and qform differ; the sform is taken"]),
        ((np.diag([0.0, 0.7, 2.5, 1]), TURNED), (1, 1), ["its sform is not invertible, and the other one is taken"]),
        ((TURNED @ [[1, 0, 1.875, 0], [0, 1, 0, 0], [0, 0, 0.8, 0], [0, 0, 0, 1]], None), (1, 0), ["right angles"]),
    ],
)
def test_what_is_odd_in_the_orientation_is_told(
    tmp_path: Path, kind: type, affines: tuple, codes: tuple[int, int], faults: list[str]
) -> None:
    made = image(kind, affines, codes)
    nib.save(made, tmp_path / "a.nii")
    told = [sentence for _, sentence in open_image(tmp_path / "a.nii").doubts]
    assert len(told) == len(faults), told
    assert all(fault in sentence for fault, sentence in zip(faults, told, strict=True)), told


def test_an_affine_that_is_not_invertible_is_refused(tmp_path: Path) -> None:
    nib.save(image(nib.Nifti1Image, (np.diag([0.0, 0.7, 2.5, 1]), None), (1, 0)), tmp_path / "a.nii")
    with pytest.raises(ScanError, match=r"a\.nii: its sform is not invertible; repair the header"):
        open_image(tmp_path / "a.nii")

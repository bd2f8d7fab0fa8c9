from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxmim.errors import ScanError
from voxmim.images.volume import Volume, case_name, is_scan, open_image, read_volume, write_volume

OBLIQUE = np.array(
    [[-0.8 * 0.96, 0.5 * 0.28, 0, 10], [0.8 * 0.28, 0.5 * 0.96, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]]
)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_written_volume_is_read_back_by_nibabel_and_voxmim(tmp_path: Path, ending: str, dtype: type) -> None:
    array = (numbered(1, 4, 5, 6) % 100).astype(dtype)
    write_volume(tmp_path / f"a{ending}", Volume(array, OBLIQUE))
    image = nib.load(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array[0])
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    again = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(again.array, array)
    assert again.array.dtype == dtype
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)


def test_several_channels_are_written_as_4d(tmp_path: Path) -> None:
    array = numbered(3, 4, 5, 6)
    write_volume(tmp_path / "a.nii.gz", Volume(array, OBLIQUE))
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj), np.moveaxis(array, 0, -1))
    again = read_volume(tmp_path / "a.nii.gz", channels=3)
    np.testing.assert_array_equal(again.array, array)
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)


def test_the_reader_applies_slope_and_intercept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").array[0], stored)


def test_a_header_is_read_without_voxels(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", Volume(numbered(2, 4, 5, 6), OBLIQUE))
    grid = open_image(tmp_path / "a.nii.gz").grid
    assert grid.shape == (4, 5, 6)
    np.testing.assert_allclose(grid.affine, OBLIQUE, atol=1e-5)


def test_a_4d_file_is_refused_if_a_3d_volume_is_expected(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", Volume(numbered(2, 4, 5, 6), np.eye(4)))
    with pytest.raises(ScanError, match=r"a\.nii\.gz: a 3D volume of 1 channel.* holds 4 x 5 x 6 x 2 voxels"):
        read_volume(tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match=r"3 channel.* holds 4 x 5 x 6 x 2 voxels"):
        read_volume(tmp_path / "a.nii.gz", channels=3)


def test_a_2d_image_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5), dtype=np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ScanError, match="a 3D volume"):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(ScanError, match="holds 4 x 5 voxels"):
        open_image(tmp_path / "a.nii")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("fraction", [0.3, 0.99])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_truncated_file_is_refused(tmp_path: Path, order: str, ending: str, fraction: float, dtype: type) -> None:
    noise = (1000 * np.random.default_rng(0).normal(size=(20, 20, 20))).astype(dtype)
    file = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(noise, np.eye(4), nib.Nifti1Header(endianness=order)), file)
    np.testing.assert_array_equal(read_volume(file).array[0], noise)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ScanError, match="cut off"):
        read_volume(file)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_values_are_counted(tmp_path: Path, order: str, ending: str, dtype: type) -> None:
    noise = np.random.default_rng(0).normal(size=(110, 100, 101)).astype(dtype)  # larger than one chunk
    noise[3, 4, 5], noise[-1, -1, -1], noise[0, 0, 50] = np.nan, np.inf, -np.inf
    nib.save(nib.Nifti1Image(noise, np.eye(4), nib.Nifti1Header(endianness=order)), tmp_path / f"a{ending}")
    with pytest.raises(ScanError, match=r"a\.nii.*: 3 voxels not finite"):
        read_volume(tmp_path / f"a{ending}")


def test_a_gzip_file_with_several_members_is_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", Volume(numbered(1, 9, 9, 9), np.eye(4)))
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:900]) + gzip.compress(whole[900:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").array, numbered(1, 9, 9, 9))


@pytest.mark.parametrize("content", [b"", b"no scan at all", b"\x1f\x8b"])
def test_a_file_that_is_not_a_scan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ScanError, match=r"a\.nii\.gz: (cannot be read as an image|the file is cut off)"):
        read_volume(tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match=r"a\.nii\.gz: (cannot be read as an image|the file is cut off)"):
        open_image(tmp_path / "a.nii.gz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"gone\.nii: there is no such file"):
        read_volume(tmp_path / "gone.nii")


def test_a_failed_write_keeps_the_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a.unknown").write_text("before")
    with pytest.raises(ScanError, match="cannot be written"):
        write_volume(tmp_path / "a.unknown", Volume(numbered(1, 4, 4, 4), np.eye(4)))
    assert (tmp_path / "a.unknown").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.unknown"]


def test_file_names_give_case_names_and_scan_types() -> None:
    assert case_name(Path("a/liver.v2_01.nii.gz")) == "liver.v2_01"
    assert case_name(Path("B.NII")) == "B"
    assert is_scan(Path("B.NII.GZ"))
    assert not is_scan(Path("._liver.nii.gz"))
    assert not is_scan(Path("liver.json"))


def test_the_reader_prints_nothing_about_refused_files(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"junk")
    code = (
        "from voxmim.images.volume import read_volume\n"
        "from voxmim.errors import ScanError\n"
        f"try:\n    read_volume({str(tmp_path / 'a.nii')!r})\nexcept ScanError:\n    pass\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout + process.stderr == ""

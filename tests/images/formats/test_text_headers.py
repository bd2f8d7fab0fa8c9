"""NRRD and MetaImage: where a marker comes to lie, and headers that promise what is not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from voxmim.errors import ScanError
from voxmim.images.grid import Grid
from voxmim.images.volume import case_name, is_scan, open_image, read_volume

SHAPE, MARKER = (4, 5, 6), (3, 1, 4)
# Columns: the axes of the voxels in RAS+, turned and of three lengths.
AFFINE = np.array([[-0.64, 0.42, 0, 10], [0.48, 0.56, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
FORMATS = [".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd"]


def marked() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.int16)
    array[MARKER] = 77
    return array


def by_itk(path: Path, compress: bool = False) -> Path:
    """The marker, written by ITK at AFFINE."""
    image = sitk.GetImageFromArray(marked().transpose())
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path.with_suffix(".img") if path.suffix == ".hdr" else path), useCompression=compress)
    return path


def nrrd_by_hand(path: Path, space: str) -> Path:
    """The marker as the format's own page has it (https://teem.sourceforge.net/nrrd/format.html), at AFFINE."""
    world = np.diag({"right-anterior-superior": [1, 1, 1, 1], "left-posterior-superior": [-1, -1, 1, 1],
                     "left-anterior-superior": [-1, 1, 1, 1]}[space]) @ AFFINE  # fmt: skip
    vectors = [f"({','.join(f'{value:.8g}' for value in column)})" for column in world[:3].T]
    head = [
        "NRRD0004", "type: short", "dimension: 3", f"space: {space}", f"sizes: {' '.join(map(str, SHAPE))}",
        f"space directions: {' '.join(vectors[:3])}", f"space origin: {vectors[3]}", "endian: little", "encoding: raw",
    ]  # fmt: skip
    path.write_bytes("\n".join(head).encode() + b"\n\n" + marked().tobytes(order="F"))
    return path


def is_where_it_was(path: Path) -> None:
    volume = read_volume(path)
    assert [tuple(index) for index in np.argwhere(volume.array[0] == 77)] == [MARKER]
    np.testing.assert_allclose(volume.affine @ [*MARKER, 1], AFFINE @ [*MARKER, 1], atol=1e-4)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    grid = open_image(path).grid
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_marker_stays_in_its_place_in_every_format(tmp_path: Path, ending: str, compress: bool) -> None:
    path = by_itk(tmp_path / f"a{ending}", compress)
    is_where_it_was(path)
    assert [file.name for file in tmp_path.iterdir() if is_scan(file)] == [f"a{ending}"]  # not the .img or .raw too
    assert case_name(path) == "a"


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-posterior-superior", "left-anterior-superior"])
def test_the_space_of_an_nrrd_is_kept_to(tmp_path: Path, space: str) -> None:
    is_where_it_was(nrrd_by_hand(tmp_path / "a.nrrd", space))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vectors_are_channels(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).random((*SHAPE, 3)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True), str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}", 3).array, np.moveaxis(array, -1, 0))
    with pytest.raises(ScanError, match=r"1 channel.* holds 4 x 5 x 6 x 3 voxels"):
        read_volume(tmp_path / f"a{ending}")


@pytest.mark.parametrize(("ending", "data"), [(".nhdr", "a.raw"), (".mhd", "a.raw"), (".nhdr", "a.raw.gz")])
def test_voxels_that_are_missing_are_named(tmp_path: Path, ending: str, data: str) -> None:
    path = by_itk(tmp_path / f"a{ending}", compress=data.endswith("gz"))
    (tmp_path / data).unlink()
    for read in (read_volume, open_image):
        with pytest.raises(ScanError, match=rf"a\{ending}: its voxels should lie in {data}, which is missing"):
            read(path)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_in_several_files_are_refused(tmp_path: Path, ending: str) -> None:
    path = by_itk(tmp_path / f"a{ending}")
    path.write_text(path.read_text().replace("a.raw", "a%03d.raw 1 6 1"))
    with pytest.raises(ScanError, match=rf"a\{ending}: its voxels lie in several files; convert it"):
        read_volume(path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_file_cut_off_is_refused(tmp_path: Path, ending: str, compress: bool) -> None:
    path = tmp_path / f"a{ending}"
    noise = np.random.default_rng(0).integers(0, 9999, (9, 9, 9)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=compress)
    data = next((file for file in tmp_path.iterdir() if file != path), path)
    data.write_bytes(data.read_bytes()[:-99])
    with pytest.raises(ScanError, match="cut off or damaged"):
        read_volume(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("NDims", "-1"), ("NDims", "99"), ("DimSize", "4 5"), ("DimSize", "4 5 -6"), ("TransformMatrix", "1 0 0"),
     ("ElementSpacing", "1 x 1"), ("Offset", "1 2 3 4"), ("ElementDataFile", None)],
)  # fmt: skip
def test_a_meta_header_at_odds_with_itself_is_refused(tmp_path: Path, field: str, value: str | None) -> None:
    path = by_itk(tmp_path / "a.mhd")
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{field} =")]
    path.write_text("\n".join([*kept[:1], *([f"{field} = {value}"] if value else []), *kept[1:]]))
    for read in (read_volume, open_image):
        with pytest.raises(ScanError, match=rf"a\.mhd: its header is damaged \({field} is not as it should be\)"):
            read(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_header_that_claims_the_moon_takes_no_memory(tmp_path: Path, encoding: str) -> None:
    path = nrrd_by_hand(tmp_path / "a.nrrd", "left-posterior-superior")
    boast = path.read_bytes().replace(b"sizes: 4 5 6", b"sizes: 3000 3000 3000").replace(b"raw", encoding.encode())
    path.write_bytes(boast)
    with pytest.raises(ScanError, match=r"claims 54000000000 bytes of voxels, but there are 240; the file is cut off"):
        read_volume(path)
    assert open_image(path).sizes == (3000, 3000, 3000)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_values_that_are_no_numbers_are_counted(tmp_path: Path, ending: str) -> None:
    array = np.ones(SHAPE, dtype=np.float32)
    array[0, 0, :3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{ending}"))
    with pytest.raises(ScanError, match="3 voxels not finite"):
        read_volume(tmp_path / f"a{ending}")


def test_another_ending_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ScanError, match=r"a\.png: this is no scan; give DICOM or a file of \.nii, \.nii\.gz"):
        read_volume(tmp_path / "a.png")


def with_line(path: Path, line: str) -> Path:
    """The file with a further line in its header."""
    content, new = path.read_bytes(), line.encode() + b"\n"
    end = content.index(b"\n\n") + 1 if path.suffix == ".nrrd" else content.index(b"ElementDataFile")
    path.write_bytes(content[:end] + new + content[end:])
    return path


@pytest.mark.parametrize(
    ("unit", "mm"), [("um", 1e-3), ("µm", 1e-3), ("micrometers", 1e-3), ("mm", 1), ("cm", 10), ("m", 1e3)]
)
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_units_become_mm(tmp_path: Path, ending: str, unit: str, mm: float) -> None:
    if ending == ".nrrd":
        path = nrrd_by_hand(tmp_path / "a.nrrd", "left-posterior-superior")
        with_line(path, f'space units: "{unit}" "{unit}" "{unit}"')
    else:
        path = with_line(by_itk(tmp_path / "a.mha"), f"DistanceUnits = {unit}")
    np.testing.assert_allclose(read_volume(path).affine, np.diag([mm, mm, mm, 1]) @ AFFINE, rtol=1e-5)


def test_a_header_without_orientation_is_reported_like_that_of_a_nifti(tmp_path: Path) -> None:
    nrrd, meta = nrrd_by_hand(tmp_path / "a.nrrd", "left-posterior-superior"), by_itk(tmp_path / "a.mha")
    assert (open_image(nrrd).doubts, open_image(meta).doubts) == ((), ())
    for path, fields in ((nrrd, ("space",)), (meta, ("TransformMatrix", "Offset"))):
        head, voxels = path.read_bytes()[:-240], path.read_bytes()[-240:]
        kept = [line for line in head.split(b"\n") if not line.decode().startswith(fields)]
        path.write_bytes(b"\n".join(kept) + voxels)
        if path == nrrd:
            with_line(path, "spacings: 1 1 1")
        assert [kind for kind, _ in open_image(path).doubts] == ["no orientation"]
        np.testing.assert_array_equal(read_volume(path).array[0], marked())


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_name_that_itk_cannot_read_is_refused(tmp_path: Path, ending: str) -> None:
    file = by_itk(tmp_path / f"a{ending}").rename(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller" + ending.encode()))
    with pytest.raises(ScanError, match=r"M\\udcfcller.*: ITK reads no file whose path is not UTF-8; rename it"):
        read_volume(file)


def test_a_segmentation_of_3d_slicer_covers_a_part_of_its_scan(tmp_path: Path) -> None:
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:4, 3:6, 5:9] = 2
    part = sitk.GetImageFromArray(np.ascontiguousarray(labels[1:5, 3:7, 4:10].transpose()))
    scan = Grid((8, 9, 10), AFFINE)
    lps = np.diag([-1, -1, 1, 1]) @ scan.crop((slice(1, 5), slice(3, 7), slice(4, 10))).affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    part.SetSpacing(spacing.tolist())
    part.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    part.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(part, str(tmp_path / "a.seg.nrrd"))
    label = open_image(tmp_path / "a.seg.nrrd").read_label(scan)
    np.testing.assert_array_equal(label.array[0], labels)
    assert case_name(tmp_path / "a.seg.nrrd") == "a"

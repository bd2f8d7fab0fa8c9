"""NRRD and MetaImage: the position of a marker, and wrong headers."""

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
# Columns: the voxel axes in RAS+, rotated, with three different lengths.
AFFINE = np.array([[-0.64, 0.42, 0, 10], [0.48, 0.56, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
FORMATS = [".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd"]


def marker_array() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.int16)
    array[MARKER] = 77
    return array


def write_with_itk(path: Path, compress: bool = False) -> Path:
    """Write the marker at AFFINE with ITK."""
    image = sitk.GetImageFromArray(marker_array().transpose())
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path.with_suffix(".img") if path.suffix == ".hdr" else path), useCompression=compress)
    return path


def write_nrrd(path: Path, space: str) -> Path:
    """Write the marker at AFFINE as specified in https://teem.sourceforge.net/nrrd/format.html."""
    world = np.diag({"right-anterior-superior": [1, 1, 1, 1], "left-posterior-superior": [-1, -1, 1, 1],
                     "left-anterior-superior": [-1, 1, 1, 1]}[space]) @ AFFINE  # fmt: skip
    vectors = [f"({','.join(f'{value:.8g}' for value in column)})" for column in world[:3].T]
    head = [
        "NRRD0004", "type: short", "dimension: 3", f"space: {space}", f"sizes: {' '.join(map(str, SHAPE))}",
        f"space directions: {' '.join(vectors[:3])}", f"space origin: {vectors[3]}", "endian: little", "encoding: raw",
    ]  # fmt: skip
    path.write_bytes("\n".join(head).encode() + b"\n\n" + marker_array().tobytes(order="F"))
    return path


def assert_marker_position(path: Path) -> None:
    volume = read_volume(path)
    assert [tuple(index) for index in np.argwhere(volume.array[0] == 77)] == [MARKER]
    np.testing.assert_allclose(volume.affine @ [*MARKER, 1], AFFINE @ [*MARKER, 1], atol=1e-4)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    grid = open_image(path).grid
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("ending", FORMATS)
def test_the_position_of_a_marker_is_the_same_in_every_format(tmp_path: Path, ending: str, compress: bool) -> None:
    path = write_with_itk(tmp_path / f"a{ending}", compress)
    assert_marker_position(path)
    assert [file.name for file in tmp_path.iterdir() if is_scan(file)] == [f"a{ending}"]  # neither .img nor .raw
    assert case_name(path) == "a"


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-posterior-superior", "left-anterior-superior"])
def test_the_space_of_an_nrrd_file_is_respected(tmp_path: Path, space: str) -> None:
    assert_marker_position(write_nrrd(tmp_path / "a.nrrd", space))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vector_components_are_read_as_channels(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).random((*SHAPE, 3)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True), str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}", 3).array, np.moveaxis(array, -1, 0))
    with pytest.raises(ScanError, match=r"1 channel.* holds 4 x 5 x 6 x 3 voxels"):
        read_volume(tmp_path / f"a{ending}")


@pytest.mark.parametrize(("ending", "data"), [(".nhdr", "a.raw"), (".mhd", "a.raw"), (".nhdr", "a.raw.gz")])
def test_a_missing_data_file_is_named(tmp_path: Path, ending: str, data: str) -> None:
    path = write_with_itk(tmp_path / f"a{ending}", compress=data.endswith("gz"))
    (tmp_path / data).unlink()
    for read in (read_volume, open_image):
        with pytest.raises(ScanError, match=rf"a\{ending}: its voxels should lie in {data}, which is missing"):
            read(path)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_in_several_files_are_refused(tmp_path: Path, ending: str) -> None:
    path = write_with_itk(tmp_path / f"a{ending}")
    path.write_text(path.read_text().replace("a.raw", "a%03d.raw 1 6 1"))
    with pytest.raises(ScanError, match=rf"a\{ending}: its voxels lie in several files; convert it"):
        read_volume(path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str, compress: bool) -> None:
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
def test_an_inconsistent_metaimage_header_is_refused(tmp_path: Path, field: str, value: str | None) -> None:
    path = write_with_itk(tmp_path / "a.mhd")
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{field} =")]
    path.write_text("\n".join([*kept[:1], *([f"{field} = {value}"] if value else []), *kept[1:]]))
    for read in (read_volume, open_image):
        with pytest.raises(ScanError, match=rf"a\.mhd: its header is damaged \({field} is not as it should be\)"):
            read(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_header_that_claims_too_many_voxels_does_not_allocate_them(tmp_path: Path, encoding: str) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", "left-posterior-superior")
    content = path.read_bytes().replace(b"sizes: 4 5 6", b"sizes: 3000 3000 3000").replace(b"raw", encoding.encode())
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"claims 54000000000 bytes of voxels, but there are 240; the file is cut off"):
        read_volume(path)
    assert open_image(path).sizes == (3000, 3000, 3000)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_non_finite_values_are_counted(tmp_path: Path, ending: str) -> None:
    array = np.ones(SHAPE, dtype=np.float32)
    array[0, 0, :3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{ending}"))
    with pytest.raises(ScanError, match="3 voxels not finite"):
        read_volume(tmp_path / f"a{ending}")


def test_a_file_with_another_extension_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ScanError, match=r"a\.png: this is no scan; give DICOM or a file of \.nii, \.nii\.gz"):
        read_volume(tmp_path / "a.png")


def insert_line(path: Path, line: str) -> Path:
    """Insert a line into the header of a file."""
    content, new = path.read_bytes(), line.encode() + b"\n"
    end = content.index(b"\n\n") + 1 if path.suffix == ".nrrd" else content.index(b"ElementDataFile")
    path.write_bytes(content[:end] + new + content[end:])
    return path


@pytest.mark.parametrize(
    ("unit", "mm"), [("um", 1e-3), ("µm", 1e-3), ("micrometers", 1e-3), ("mm", 1), ("cm", 10), ("m", 1e3)]
)
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_units_are_converted_to_mm(tmp_path: Path, ending: str, unit: str, mm: float) -> None:
    if ending == ".nrrd":
        path = write_nrrd(tmp_path / "a.nrrd", "left-posterior-superior")
        insert_line(path, f'space units: "{unit}" "{unit}" "{unit}"')
    else:
        path = insert_line(write_with_itk(tmp_path / "a.mha"), f"DistanceUnits = {unit}")
    np.testing.assert_allclose(read_volume(path).affine, np.diag([mm, mm, mm, 1]) @ AFFINE, rtol=1e-5)


def test_a_header_without_orientation_is_reported(tmp_path: Path) -> None:
    nrrd, meta = write_nrrd(tmp_path / "a.nrrd", "left-posterior-superior"), write_with_itk(tmp_path / "a.mha")
    assert (open_image(nrrd).doubts, open_image(meta).doubts) == ((), ())
    for path, fields in ((nrrd, ("space",)), (meta, ("TransformMatrix", "Offset"))):
        head, voxels = path.read_bytes()[:-240], path.read_bytes()[-240:]
        kept = [line for line in head.split(b"\n") if not line.decode().startswith(fields)]
        path.write_bytes(b"\n".join(kept) + voxels)
        if path == nrrd:
            insert_line(path, "spacings: 1 1 1")
        assert [kind for kind, _ in open_image(path).doubts] == ["no orientation"]
        np.testing.assert_array_equal(read_volume(path).array[0], marker_array())


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_file_name_that_itk_cannot_read_is_refused(tmp_path: Path, ending: str) -> None:
    file = write_with_itk(tmp_path / f"a{ending}").rename(
        os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller" + ending.encode())
    )
    with pytest.raises(ScanError, match=r"M\\udcfcller.*: ITK reads no file whose path is not UTF-8; rename it"):
        read_volume(file)


def test_a_cropped_segmentation_of_3d_slicer_is_read_on_the_grid_of_its_scan(tmp_path: Path) -> None:
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

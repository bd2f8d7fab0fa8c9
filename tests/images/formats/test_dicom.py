"""DICOM folders: how files are grouped into series, what is left out and why, and the position of the voxels."""

from __future__ import annotations

import locale
import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLSLossless, RLELossless

from dicom_files import AXIAL, OBLIQUE, PATIENT, SPACING, places, voxels, write_enhanced, write_series
from voxmim.errors import ScanError
from voxmim.images.formats.dicom import Series, find_series
from voxmim.images.formats.dicom_file import quietly
from voxmim.images.volume import case_name, is_scan, open_image, read_volume


def expected_affine(positions: np.ndarray, orientation: tuple[float, ...]) -> np.ndarray:
    """The affine by the formula of the standard (PS3.3 C.7.6.2.1.1), with world axes converted from LPS to RAS."""
    across, down = np.reshape(orientation, (2, 3))
    last, first = positions[-1], positions[0]
    columns = [across * SPACING[0], down * SPACING[1], (last - first) / (len(positions) - 1), first]
    return np.diag([-1, -1, 1, 1]) @ np.vstack([np.stack(columns, axis=1), [0, 0, 0, 1]])


def only_series(folder: Path) -> Series:
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_slices_with_names_in_any_order_become_a_volume_at_the_right_position(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    array, positions = voxels(12), places(12, orientation=orientation)
    names = [f"IM{hash_}" for hash_ in np.random.default_rng(1).permutation(12)]
    write_series(tmp_path / "a" / "scan.one", array, positions, orientation, names=names)
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, expected_affine(positions, orientation), atol=1e-5)
    grid = open_image(tmp_path / "a").grid
    assert grid.shape == array.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)
    series = only_series(tmp_path)
    assert series.path == tmp_path / "a" / "scan.one"
    assert case_name(series.path) == "scan.one"
    assert (series.fault, series.notes, series.modality) == (None, (), "CT")
    np.testing.assert_allclose(series.grid.spacing, (*SPACING, 2.5))


def test_reading_does_not_change_the_locale(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(3), intercept=-1024)
    before = locale.setlocale(locale.LC_ALL)
    read_volume(tmp_path)
    assert locale.setlocale(locale.LC_ALL) == before


def test_world_coordinates_agree_with_itk(tmp_path: Path) -> None:
    array = voxels(6)
    files = write_series(tmp_path, array, places(6, orientation=OBLIQUE), OBLIQUE)
    image = sitk.ReadImage([str(file) for file in files])
    marker = (5, 3, 4)
    x, y, z = image.TransformIndexToPhysicalPoint(marker)
    volume = read_volume(tmp_path)
    np.testing.assert_allclose((volume.affine @ [*marker, 1])[:3], (-x, -y, z), atol=1e-3)
    assert volume.array[0][marker] == image[marker]


@pytest.mark.parametrize("compress", [False, True])
def test_slope_and_intercept_are_applied(tmp_path: Path, compress: bool) -> None:
    array = (voxels(4) - 250).astype(np.int16)
    for file in write_series(tmp_path, array, compress=compress):
        data = pydicom.dcmread(file)
        data.RescaleSlope, data.RescaleIntercept = "0.5", "-1024"
        data.save_as(file)
    np.testing.assert_allclose(read_volume(tmp_path).array[0], array * 0.5 - 1024)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    array = voxels(3)
    for index, file in enumerate(write_series(tmp_path, array)):
        data = pydicom.dcmread(file)
        data.RescaleSlope = str(1 + index / 4)
        data.save_as(file)
    np.testing.assert_allclose(read_volume(tmp_path).array[0], array * [1, 1.25, 1.5])


def test_mixed_series_are_separated_and_named_without_patient_data(tmp_path: Path) -> None:
    a, b = voxels(4, seed=1), voxels(5, seed=2)
    write_series(tmp_path, a, uid="1.2.3.4")
    write_series(tmp_path, b, uid="1.2.3.5", names=[f"b{i}" for i in range(5)], t0008_0060="MR")
    one, two = find_series(tmp_path)
    assert (one.modality, two.modality) == ("CT", "MR")
    np.testing.assert_array_equal(read_volume(one.path).array[0], a)
    np.testing.assert_array_equal(read_volume(two.path).array[0], b)
    assert one.path == tmp_path / f"{one.name}.series"
    assert case_name(one.path) == one.name
    with pytest.raises(ScanError, match=rf"2 DICOM series lie here \({one.name}, {two.name}\); name one, as"):
        read_volume(tmp_path)
    with pytest.raises(ScanError, match="holds no series of this name"):
        read_volume(tmp_path / "CT-00000000.series")


def test_a_folder_is_read_again_when_it_changes(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(4))
    assert only_series(tmp_path).grid.shape == (8, 7, 4)
    (tmp_path / "003.dcm").unlink()
    assert only_series(tmp_path).grid.shape == (8, 7, 3)


@pytest.mark.parametrize(
    ("heights", "fault"),
    [
        ([0, 2, 4, 8, 10], "1 of 6 slices is missing, first between 002.dcm and 003.dcm"),
        ([0, 4, 6, 8, 14, 16], "3 of 9 slices are missing, first between 000.dcm and 001.dcm"),
        ([0, 2, 4, 7, 9, 11], "its slices lie 2 to 3 mm apart, first unevenly between 002.dcm and 003.dcm"),
        ([0, 2, 4, 6.03, 8], "its slices lie 1.97 to 2.03 mm apart"),
        ([5], "it has one slice only"),
    ],
)
def test_gaps_are_reported_with_their_position(tmp_path: Path, heights: list[float], fault: str) -> None:
    write_series(tmp_path, voxels(len(heights)), np.array([[0, 0, height] for height in heights]))
    assert fault in str(only_series(tmp_path).fault)
    with pytest.raises(ScanError, match=fault):
        read_volume(tmp_path)
    with pytest.raises(ScanError, match=fault):
        read_volume(only_series(tmp_path).path)


def test_rounded_positions_count_as_evenly_spaced(tmp_path: Path) -> None:
    heights = np.round(np.arange(10) * 1.0 / 3, 2)
    write_series(tmp_path, voxels(10), np.array([[0, 0, height] for height in heights]))
    assert only_series(tmp_path).fault is None
    assert only_series(tmp_path).grid.spacing[2] == pytest.approx(1 / 3)


def test_duplicate_slices_are_used_once(tmp_path: Path) -> None:
    array = voxels(5)
    write_series(tmp_path / "one", array)
    write_series(tmp_path / "copy", array[:, :, 1:3], places(5)[1:3])
    series = only_series(tmp_path)
    assert series.notes == ("2 duplicate slices used once",)
    np.testing.assert_array_equal(read_volume(tmp_path).array[0], array)


def test_different_voxels_at_the_same_position_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(5))
    write_series(tmp_path, voxels(5, seed=9), names=[f"late{i}" for i in range(5)])
    assert "000.dcm and late0 lie at the same place with different voxels" in str(only_series(tmp_path).fault)


def test_a_tilted_gantry_is_reported_with_its_angle(tmp_path: Path) -> None:
    positions = places(6) + np.arange(6)[:, None] * [0, 2.5 * np.tan(np.radians(12)), 0]
    write_series(tmp_path, voxels(6), positions)
    assert only_series(tmp_path).fault == "the gantry was tilted by 12.0 degrees, which shears the volume"


def test_slices_shifted_sideways_are_refused(tmp_path: Path) -> None:
    positions = places(6)
    positions[3:, 0] += 4
    write_series(tmp_path, voxels(6), positions)
    assert "shifted against each other, most between 002.dcm and 003.dcm" in str(only_series(tmp_path).fault)


def test_two_orientations_in_one_series_are_two_scans(tmp_path: Path) -> None:
    a, b = voxels(4), voxels(6, seed=3)
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    write_series(tmp_path, a)
    write_series(tmp_path, b, places(6, orientation=coronal), coronal, names=[f"z{i}" for i in range(6)])
    one, two = find_series(tmp_path)
    for series, array in ((one, a), (two, b)):
        assert series.notes == ("its slices are of 2 orientations or sizes; each is a scan of its own",)
        np.testing.assert_array_equal(read_volume(series.path).array[0], array)


@pytest.mark.parametrize(
    ("tags", "fault"),
    [
        ({"t0008_0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "4 files hold a localizer"),
        ({"t0008_0016": "1.2.840.10008.5.1.4.1.1.7"}, "4 files hold a secondary capture"),
    ],
)
def test_localizers_and_secondary_captures_are_left_out_and_reported(
    tmp_path: Path, tags: dict[str, str], fault: str
) -> None:
    write_series(tmp_path, voxels(3))
    write_series(tmp_path, voxels(4), uid="1.2.8", names=[f"x{i}" for i in range(4)], **tags)
    sound = [series for series in find_series(tmp_path) if series.fault is None]
    left_out = [series for series in find_series(tmp_path) if series.fault is not None]
    assert [series.grid.shape for series in sound] == [(8, 7, 3)]
    assert [fault in str(series.fault) for series in left_out] == [True]
    assert read_volume(tmp_path).shape == (8, 7, 3)  # the only series left needs no name


@pytest.mark.parametrize(
    ("tag", "value", "fault"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not at right angles"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 2, 0], "not at right angles"),
        ("ImagePositionPatient", None, "does not say where it lies"),
        ("PixelSpacing", [0, 0], "does not say where it lies"),
    ],
)
def test_slices_without_a_valid_position_are_left_out(
    tmp_path: Path, tag: str, value: list[float] | None, fault: str
) -> None:
    for file in write_series(tmp_path, voxels(3)):
        data = pydicom.dcmread(file)
        setattr(data, tag, value)
        data.save_as(file)
    assert fault in str(only_series(tmp_path).fault)


def test_the_image_type_secondary_is_not_a_secondary_capture(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(3), t0008_0008="DERIVED\\SECONDARY\\AXIAL")
    assert only_series(tmp_path).fault is None


def test_colour_images_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    whole = write_series(tmp_path, voxels(4))
    data = pydicom.dcmread(whole[0])
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SeriesInstanceUID = 7, 0, "1.2.5"
    data.PixelData = bytes(3 * 8 * 7)
    data.save_as(tmp_path / "colour")
    (tmp_path / "cut").write_bytes(whole[1].read_bytes()[:-30])
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "._000.dcm").write_bytes(b"a Mac's shadow")
    faults = sorted(str(series.fault) for series in find_series(tmp_path))
    assert faults == ["1 file holds a coloured image, which is no scan",
                      "1 file holds no image, or one that cannot be read", "None"]  # fmt: skip


def test_frames_of_an_enhanced_file_are_sorted_and_rescaled_one_by_one(tmp_path: Path) -> None:
    array, positions = voxels(4), places(4)
    order = [2, 0, 3, 1]
    rescale = [(1.0, 0.0), (2.0, -5.0), (0.5, 1.0), (1.5, 0.0)]
    file = write_enhanced(tmp_path / "IM1", array[:, :, order], positions[order], [rescale[index] for index in order])
    for path in (file, tmp_path, only_series(tmp_path).path):
        volume = read_volume(path)
        slope, intercept = np.array(rescale).T
        np.testing.assert_allclose(volume.array[0], array * slope + intercept)
        np.testing.assert_allclose(volume.affine, expected_affine(positions, AXIAL), atol=1e-5)
        assert open_image(path).sizes == array.shape


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([0, 1, 3, 4], "1 of 5 slices is missing, first between frame 2 and frame 3"),
        ([0, 1, 1, 2], "several of its frames lie at the same place"),
    ],
)
def test_enhanced_frames_that_do_not_form_a_volume_are_refused(tmp_path: Path, frames: list[int], fault: str) -> None:
    file = write_enhanced(tmp_path / "a.dcm", voxels(4), places(5)[frames])
    assert fault in str(only_series(tmp_path).fault)
    with pytest.raises(ScanError, match=fault):
        read_volume(file)


def test_enhanced_frames_of_two_orientations_are_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a.dcm", voxels(2), places(2), orientations=[AXIAL, OBLIQUE])
    assert "1 file holds frames of several orientations" in str(only_series(tmp_path).fault)


def test_a_single_slice_is_not_a_scan(tmp_path: Path) -> None:
    file, *_ = write_series(tmp_path, voxels(3))
    with pytest.raises(ScanError, match=r"000\.dcm: this is one slice of a series; give its folder"):
        read_volume(file)
    assert not is_scan(file)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="there is no DICOM file in this folder"):
        read_volume(tmp_path)


def test_the_name_of_the_patient_appears_in_no_output(tmp_path: Path) -> None:
    write_series(tmp_path / "fine", voxels(4))
    write_series(tmp_path / "gap", voxels(3), places(4)[[0, 1, 3]], uid="1.2.5")
    write_series(tmp_path / "scout", voxels(3), uid="1.2.6", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    write_enhanced(tmp_path / "many.dcm", voxels(3), places(5)[[0, 1, 4]])
    cut = (tmp_path / "fine" / "000.dcm").read_bytes()
    for length in range(150, len(cut), 40):
        (tmp_path / "cut.dcm").write_bytes(cut[:length])
    code = (
        "import logging; logging.basicConfig(level=0)\n"
        "from voxmim.images.formats.dicom import find_series\n"
        "from voxmim.images.volume import read_volume\n"
        f"for series in find_series({str(tmp_path)!r}):\n"
        "    print(series)\n"
        "    try:\n        print(read_volume(series.path))\n"
        "    except Exception as error:\n        print(repr(error))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.count("Series(") == 5
    assert "Quisling" not in process.stdout + process.stderr
    assert logging.root.manager.disable == logging.NOTSET
    assert PATIENT.encode() in cut


@pytest.mark.parametrize("trailing", [b"\0" * 3, b"\0" * 512, b"\xff" * 7, b"<html>moved</html>"])
@pytest.mark.parametrize("compress", [False, True])
def test_bytes_after_the_last_element_are_ignored(tmp_path: Path, compress: bool, trailing: bytes) -> None:
    array = voxels(4)
    for file in write_series(tmp_path, array, compress=compress):
        file.write_bytes(file.read_bytes() + trailing)
    np.testing.assert_array_equal(read_volume(tmp_path).array[0], array)


@pytest.mark.parametrize("ending", ["", ".dcm", ".IMA"])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_a_preamble_are_read(tmp_path: Path, implicit: bool, ending: str) -> None:
    array = voxels(4)
    for file in write_series(tmp_path / "whole", array):
        data, bare = pydicom.dcmread(file), tmp_path / "bare" / f"{file.stem}{ending}"
        bare.parent.mkdir(exist_ok=True)
        del data.file_meta
        data["PixelData"].VR = "OW"
        pydicom.dcmwrite(bare, pydicom.Dataset(data), implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "bare").array[0], array)


@pytest.mark.parametrize(("step", "digits"), [(0.625, 1), (0.625, 2), (0.3125, 2), (1 / 3, 2), (2.0049, 1)])
def test_positions_rounded_by_an_export_count_as_evenly_spaced(tmp_path: Path, step: float, digits: int) -> None:
    positions = np.round(places(40, step), digits)
    write_series(tmp_path, voxels(40), positions)
    assert only_series(tmp_path).fault is None
    assert only_series(tmp_path).grid.spacing[2] == pytest.approx(step, abs=10**-digits / 39 * 1.01)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_slices_with_other_compressions_are_decoded(tmp_path: Path, syntax: str) -> None:
    array = voxels(3, columns=16, rows=16)
    for file in write_series(tmp_path, array):
        data = pydicom.dcmread(file)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path).array[0], array)


def test_enhanced_frames_in_lossless_jpeg_are_decoded(tmp_path: Path) -> None:
    array, positions = voxels(4), places(4)
    packed = [pydicom.dcmread(file) for file in write_series(tmp_path / "classic", array, compress=True)]
    data = pydicom.dcmread(write_enhanced(tmp_path / "a.dcm", array, positions))
    data.file_meta.TransferSyntaxUID = packed[0].file_meta.TransferSyntaxUID
    assert data.file_meta.TransferSyntaxUID.is_compressed
    data.PixelData = encapsulate([next(generate_frames(each.PixelData, number_of_frames=1)) for each in packed])
    data["PixelData"].VR = "OB"
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").array[0], array)


def test_concurrent_reads_do_not_change_logging(tmp_path: Path) -> None:
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quietly(tmp_path, "it"):
            first_in.set()
            second_in.wait(0.3)
        first_out.set()

    def second() -> None:
        first_in.wait()
        with quietly(tmp_path, "it"):
            second_in.set()
            first_out.wait(10)

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logging.root.manager.disable == logging.NOTSET

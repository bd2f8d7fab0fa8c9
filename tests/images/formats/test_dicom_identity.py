"""Files are one scan if they have one patient, study, series, frame of reference and acquisition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_files import PATIENT, voxels, write_series
from voxmim.errors import ScanError
from voxmim.images.formats.dicom import find_series
from voxmim.images.volume import read_volume
from voxmim.sources import open_source

A, B = voxels(6, seed=1), voxels(6, seed=2)
SHIFTS = pytest.mark.parametrize(
    "shift", [1.25, 15.0, 0.0, 2.5, -15.0], ids=["between", "above", "same", "over", "below"]
)
LAYOUTS = pytest.mark.parametrize("layout", [("p0/CT", "p1/CT"), ("CT", "CT"), ("p0", ".")])


def write(
    folder: Path, array: np.ndarray, shift: float, name: str, numbers: range | None = None, **tags: object
) -> None:
    """Write a series 1.2.3.4 with slices every 2.5 mm from `shift` on; set tags by their keywords."""
    heights = shift + 2.5 * np.arange(array.shape[2])
    positions = np.stack([np.zeros_like(heights), np.zeros_like(heights), heights], axis=1)
    names = [f"{name}{index}" for index in range(array.shape[2])]
    for index, file in enumerate(write_series(folder, array, positions, names=names)):
        data = pydicom.dcmread(file)
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        if numbers is not None:
            data.InstanceNumber = numbers[index]
        data.save_as(file)


@pytest.mark.parametrize(
    "tag", ["PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"]
)
def test_each_of_these_tags_separates_two_scans_with_the_same_series_uid(tmp_path: Path, tag: str) -> None:
    values = ("19500101", "19600101") if tag == "PatientBirthDate" else ("1.2.77", "1.2.88")
    write(tmp_path, A, 0.0, "a", **{tag: values[0]})
    write(tmp_path, B, 1.25, "b", **{tag: values[1]})
    assert [each.fault for each in find_series(tmp_path)] == [None, None]


@SHIFTS
@LAYOUTS
def test_two_patients_with_the_same_series_uid_are_two_scans(
    tmp_path: Path, layout: tuple[str, str], shift: float
) -> None:
    write(tmp_path / layout[0], A, 0.0, "a", PatientID="one")
    write(tmp_path / layout[1], B, shift, "b", PatientID="two")
    series = find_series(tmp_path)
    assert [(each.fault, each.notes) for each in series] == [(None, ()), (None, ())]
    arrays = {read_volume(each.path).array.tobytes() for each in series}
    assert arrays == {read_volume(case.images[0]).array.tobytes() for case in open_source(tmp_path).cases}
    assert arrays == {np.asfortranarray(each[None]).tobytes() for each in (A, B)}


@SHIFTS
@LAYOUTS
def test_scans_that_cannot_be_separated_are_left_out(tmp_path: Path, layout: tuple[str, str], shift: float) -> None:
    write(tmp_path / layout[0], A, 0.0, "a", range(1, 7))
    write(tmp_path / layout[1], B, shift, "b", range(1, 7))
    (series,) = find_series(tmp_path)
    assert "cannot be distinguished" in str(series.fault) or "at the same place" in str(series.fault)
    with pytest.raises(ScanError):
        read_volume(tmp_path)


def test_interleaved_stacks_without_instance_numbers_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "p0", A, 0.0, "a")
    write(tmp_path / "p1", B, 1.25, "b")
    (series,) = find_series(tmp_path)
    assert "they lie in several folders, and between each other's" in str(series.fault)


def test_one_series_in_several_folders_is_one_scan(tmp_path: Path) -> None:
    array = voxels(12)
    write(tmp_path / "DIR0", array[..., :6], 0.0, "a", range(1, 7))
    write(tmp_path / "DIR1", array[..., 6:], 15.0, "b", range(7, 13))
    np.testing.assert_array_equal(read_volume(tmp_path).array[0], array)


def test_identical_instance_numbers_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, A, 0.0, "a", InstanceNumber=1)
    np.testing.assert_array_equal(read_volume(tmp_path).array[0], A)


def test_a_copy_with_the_same_instance_numbers_is_used_once(tmp_path: Path) -> None:
    write(tmp_path / "one", A, 0.0, "a", range(1, 7))
    write(tmp_path / "copy", A, 0.0, "a", range(1, 7))
    (series,) = find_series(tmp_path)
    assert (series.fault, series.notes) == (None, ("6 duplicate slices used once",))


def test_patient_data_appears_in_no_text(tmp_path: Path) -> None:
    write(tmp_path / "p0", A, 0.0, "a", PatientID="secret-0", PatientBirthDate="19500101")
    write(tmp_path / "p1", B, 1.25, "b", PatientID="secret-1", PatientBirthDate="19600101")
    text = "".join(f"{series!r} {series.planes!r} {series.planes[0][0]!r}" for series in find_series(tmp_path))
    assert not any(word in text for word in (PATIENT, "secret", "19500101", "19600101"))

"""DICOM segmentations written by voxmim equal the NIfTI label map when highdicom or SimpleITK reads them."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_files import AXIAL, OBLIQUE, places, voxels, write_enhanced, write_series
from voxmim.errors import ScanError
from voxmim.images.formats.dicom_seg_write import write_segmentation
from voxmim.images.grid import LPS_TO_RAS
from voxmim.images.volume import Volume, open_image, write_volume

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
NAMES = {1: "liver", 3: "spleen"}
LABELS = np.zeros((8, 7, 6), dtype=np.uint8)
LABELS[1:4, 1:3, 2:4], LABELS[5:7, 4:6, 3:5] = 1, 3


def series(folder: Path, kind: str) -> Path:
    orientation = {"sagittal": SAGITTAL, "oblique": OBLIQUE}.get(kind, AXIAL)
    positions = places(6, orientation=orientation)
    positions = positions[::-1] if kind == "reversed" else positions
    write_series(folder, voxels(6), positions, orientation)
    return folder


@pytest.mark.parametrize("kind", ["axial", "sagittal", "reversed", "oblique"])
def test_highdicom_and_simpleitk_read_the_label_map(tmp_path: Path, kind: str) -> None:
    scan = series(tmp_path / "scan", kind)
    affine = open_image(scan).grid.affine
    write_volume(tmp_path / "a.nii.gz", Volume(LABELS[None], affine))
    write_segmentation(tmp_path / "a.dcm", scan, LABELS, NAMES)
    nifti = sitk.ReadImage(tmp_path / "a.nii.gz")

    volume = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    labels = np.zeros_like(LABELS)
    for at in np.argwhere(volume.array):
        place = LPS_TO_RAS @ volume.affine @ [*at, 1]
        x, y, z = np.rint((np.linalg.inv(affine) @ place)[:3]).astype(int)
        labels[x, y, z] = volume.array[tuple(at)]
    np.testing.assert_array_equal(labels, LABELS)

    frames = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.dcm"))
    labels = np.zeros_like(LABELS)
    for frame, group in zip(frames, pydicom.dcmread(tmp_path / "a.dcm").PerFrameFunctionalGroupsSequence, strict=True):
        _, _, z = nifti.TransformPhysicalPointToIndex(group.PlanePositionSequence[0].ImagePositionPatient)
        labels[..., z][frame.T > 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(labels, sitk.GetArrayFromImage(nifti).transpose(2, 1, 0))


def test_a_segmentation_references_its_series_and_names_and_colours_its_segments(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", "axial")
    write_segmentation(tmp_path / "a.dcm", scan, LABELS, NAMES)
    data, source = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(scan / "000.dcm")
    (referred,) = data.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == (source.StudyInstanceUID, source.FrameOfReferenceUID)
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["liver", "not used 2", "spleen"]
    assert len({tuple(segment.RecommendedDisplayCIELabValue) for segment in data.SegmentSequence}) == 3
    assert {segment.SegmentAlgorithmType for segment in data.SegmentSequence} == {"AUTOMATIC"}


def test_an_empty_label_map_is_written(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", "axial")
    write_segmentation(tmp_path / "a.dcm", scan, LABELS * 0, NAMES)
    assert not highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True).array.any()


def test_a_series_without_frame_of_reference_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", "axial")
    for file in scan.iterdir():
        data = pydicom.dcmread(file)
        del data.FrameOfReferenceUID
        data.save_as(file)
    with pytest.raises(ScanError, match="it lacks FrameOfReferenceUID, to which a DICOM segmentation must refer"):
        write_segmentation(tmp_path / "a.dcm", scan, LABELS, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_a_multi_frame_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    write_enhanced(tmp_path / "scan" / "a.dcm", voxels(6), places(6))
    with pytest.raises(ScanError, match="for a file of many frames no DICOM segmentation is written"):
        write_segmentation(tmp_path / "a.dcm", tmp_path / "scan", LABELS, NAMES)


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", "axial")
    with pytest.raises(ScanError, match="label 3 has no name, which a DICOM segmentation needs"):
        write_segmentation(tmp_path / "a.dcm", scan, LABELS, {1: "liver", 3: " "})
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]

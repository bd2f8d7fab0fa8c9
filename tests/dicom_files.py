"""DICOM files for the tests, written by SimpleITK and pydicom."""

from __future__ import annotations

import locale
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PATIENT = "Quisling^Ferdinanda"  # must not appear in any output
CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
SPACING = (0.8, 0.7)  # mm between columns and between rows


def voxels(slices: int, columns: int = 8, rows: int = 7, seed: int = 0) -> np.ndarray:
    """(X, Y, Z) int16."""
    return np.random.default_rng(seed).integers(0, 500, (columns, rows, slices)).astype(np.int16)


def places(slices: int, step: float = 2.5, orientation: tuple[float, ...] = AXIAL) -> np.ndarray:
    """(N, 3) positions along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([3.0, 4.0, 5.0]) + step * np.arange(slices)[:, None] * normal


def write_series(
    folder: Path,
    array: np.ndarray,
    positions: np.ndarray | None = None,
    orientation: tuple[float, ...] = AXIAL,
    uid: str = "1.2.3.4",
    names: list[str] | None = None,
    slope: float = 1,
    intercept: float = 0,
    compress: bool = False,
    **tags: str,
) -> list[Path]:
    """Write (X, Y, Z) voxels, one file per slice; `tags` as ``t0008_0060="MR"``."""
    folder.mkdir(parents=True, exist_ok=True)
    positions = places(array.shape[2], orientation=orientation) if positions is None else positions
    written = []
    for index, position in enumerate(positions):
        image = sitk.GetImageFromArray(array[:, :, index].T[None].astype(np.float64 if slope != 1 else array.dtype))
        image.SetSpacing((*SPACING, 1.0))
        given = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL", "0008|0016": CT, "0008|0018": f"{uid}.{index + 1}",
            "0008|0060": "CT", "0008|103e": f"series of {PATIENT}", "0010|0010": PATIENT, "0010|0020": PATIENT,
            "0020|000d": "1.2.3", "0020|000e": uid, "0020|0052": "1.2.9", "0018|0050": "2.5",
            "0020|0032": "\\".join(f"{value:.10g}" for value in position),
            "0020|0037": "\\".join(map(str, orientation)),
            "0028|1052": str(intercept), "0028|1053": str(slope),
            **({"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "1"} if slope != 1 else {}),
            **{key[1:].replace("_", "|"): value for key, value in tags.items()},
        }  # fmt: skip
        for key, value in given.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(compress)
        file = folder / (names[index] if names else f"{index:03d}.dcm")
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(file))
        before = locale.setlocale(locale.LC_ALL)
        writer.Execute(image)
        locale.setlocale(locale.LC_ALL, before)  # GDCM's writer changes it
        written.append(file)
    return written


def write_enhanced(
    file: Path,
    array: np.ndarray,
    positions: np.ndarray,
    rescale: list[tuple[float, float]] | None = None,
    orientations: list[tuple[float, ...]] | None = None,
) -> Path:
    """Write (X, Y, Z) voxels as the frames of one enhanced MR file."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "MR", "1.2.7", "1.2.3"
    data.PatientName = data.PatientID = data.SeriesDescription = PATIENT
    data.Columns, data.Rows, data.NumberOfFrames = array.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[0]], 2.5
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, position in enumerate(positions):
        frame, place, turn, value = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(f"{part:.8g}") for part in position]
        turn.ImageOrientationPatient = list(orientations[index] if orientations else AXIAL)
        value.RescaleSlope, value.RescaleIntercept = rescale[index] if rescale else (1, 0)
        value.RescaleType = "US"
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [turn]
        frame.PixelValueTransformationSequence = [value]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.add_new("PixelData", "OW", np.ascontiguousarray(array.transpose(2, 1, 0)).tobytes())
    data.save_as(file, enforce_file_format=True)
    return file


def opened(files: list[Path]) -> list[pydicom.FileDataset]:
    """Read files with the tags that highdicom requires of a segmentation's source."""
    datasets = [pydicom.dcmread(file) for file in files]
    for dataset in datasets:
        dataset.PatientSex, dataset.PositionReferenceIndicator, dataset.SpacingBetweenSlices = None, "", 2.5
    return datasets


def write_segmentation(file: Path, scan: list[Path], masks: np.ndarray, kind: str = "BINARY") -> Path:
    """Write a DICOM segmentation of a scan's files; `masks` as labels (X, Y, Z), or (X, Y, Z, segments)."""
    segments = [
        SegmentDescription(number, f"organ {number}", codes.SCT.Organ, codes.SCT.Liver, "MANUAL") for number in (1, 2)
    ]
    made = Segmentation(
        opened(scan), np.moveaxis(masks, (0, 1, 2), (2, 1, 0)), kind, segments, highdicom.UID(), 2, highdicom.UID(), 1,
        "m", "m", "1", "1", omit_empty_frames=True,
    )  # fmt: skip
    made.save_as(file)
    return file

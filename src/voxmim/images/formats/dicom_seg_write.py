"""Label maps as DICOM segmentations that refer to the series of their scan."""

import colorsys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from voxmim.errors import ScanError
from voxmim.files import atomic_write
from voxmim.images.formats.dicom import Series, wanted_series
from voxmim.images.grid import LPS_TO_RAS

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
_GOLDEN = 0.618  # step of the hue between segments, so that neighbours have different colours


def write_segmentation(file: Path, scan: Path, labels: np.ndarray, names: Mapping[int, str]) -> None:
    """Write a label map as a binary DICOM segmentation, with label values as segment numbers.

    `scan` is the path of the DICOM series (see `open_dicom`), and `labels` (X, Y, Z) uint8 on its grid. Raises
    ScanError if a label has no name, the scan is one file of many frames, the series lacks tags that a segmentation
    must refer to, or the file cannot be written.
    """
    unnamed = [value for value, name in names.items() if not name.strip()]
    if unnamed:
        raise ScanError(
            f"{file}: label {unnamed[0]} has no name, which a DICOM segmentation needs; write NIfTI instead."
        )

    import highdicom  # slow

    series = wanted_series(scan)
    if series.planes[0][0].enhanced:
        raise ScanError(f"{scan}: for a file of many frames no DICOM segmentation is written; write NIfTI instead.")
    sources = _sources(series)
    pixels = highdicom.Volume(
        np.ascontiguousarray(labels.transpose(2, 1, 0)),  # slices, rows, columns
        (LPS_TO_RAS @ series.grid.affine)[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=sources[0].FrameOfReferenceUID,
    )
    numbers = range(1, max(names) + 1)  # must be consecutive in DICOM
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmentation = highdicom.seg.Segmentation(
                sources,
                pixels,
                highdicom.seg.SegmentationTypeValues.BINARY,
                [_segment(number, names.get(number, f"not used {number}")) for number in numbers],
                series_instance_uid=highdicom.UID(),
                series_number=1,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="voxmim",
                manufacturer_model_name="voxmim",
                software_versions=version("voxmim"),
                device_serial_number="0",
                series_description="Segmentation by voxmim",
            )
        with atomic_write(file) as temporary:
            segmentation.save_as(temporary)
    except (AttributeError, ValueError, TypeError, OSError) as error:
        kind = "the disk" if isinstance(error, OSError) else "the tags of the series"
        raise ScanError(f"{file}: no DICOM segmentation of {scan} could be written; check {kind}.") from None


def _sources(series: Series) -> list[pydicom.Dataset]:
    """The headers of the series' files, in the order of the planes."""
    headers: list[pydicom.Dataset] = []
    for path in dict.fromkeys(planes.path for planes, _ in series.planes):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        missing = [tag for tag in _NEEDED if not header.get(tag)]
        if missing:
            raise ScanError(
                f"{series.path}: it lacks {missing[0]}, to which a DICOM segmentation must refer; write NIfTI instead."
            )
        for tag in _MAY_BE_EMPTY:
            if tag not in header:
                setattr(header, tag, None)
        header.SpacingBetweenSlices = round(series.grid.spacing[2], 6)  # wrong in some files
        headers.append(header)
    return headers


def _segment(number: int, name: str) -> Any:
    """The description of a segment; the label has a name but no code."""
    import highdicom
    from pydicom.sr.codedict import codes

    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.75, 0.95))
    algorithm = highdicom.AlgorithmIdentificationSequence("voxmim", codes.DCM.ArtificialIntelligence, version("voxmim"))
    return highdicom.seg.SegmentDescription(
        number,
        name[:64],
        codes.SCT.AnatomicalStructure,
        codes.SCT.AnatomicalStructure,
        highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(red, green, blue),
    )

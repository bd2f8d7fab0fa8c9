"""The planes of one DICOM file, from its tags.

A slice of a classic series is one plane; an enhanced file has many, each with a position and a rescaling of its own.
Names and numbers of patients are only compared, and never shown or stored.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.tag import Tag

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_file import SEGMENTATION, parsed, quietly

UNREADABLE = "no image, or one that cannot be read"
_STORAGE = r"1\.2\.840\.10008\.5\.1\.4\.1\.1\."
_ENHANCED = re.compile(_STORAGE + r"(2\.1|2\.2|4\.1|4\.4|128\.1|130)")
_SECONDARY_CAPTURE = re.compile(_STORAGE + r"7(\.\d)?")
_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
# The same in all files of a series, by the standard's model of patient, study, series and frame of reference.
_IDENTITY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "AccessionNumber", "SeriesInstanceUID", "Modality", "FrameOfReferenceUID",
)  # fmt: skip
_TAGS = [Tag(name) for name in (
    *_IDENTITY, "SOPClassUID", "ImageType", "InstanceNumber", "SamplesPerPixel", "Rows", "Columns", "NumberOfFrames",
    "BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes of one DICOM file, without their voxels."""

    path: Path
    series: str  # the series UID, or the folder if the file has none
    modality: str  # ``CT``, ``MR`` and so on
    identity: tuple[str, ...] = field(default=(), repr=False)  # the values of `_IDENTITY`; never to be shown
    number: int | None = None  # of the instance in its series, None if the file has none
    enhanced: bool = False  # whether the file has many planes
    size: tuple[int, int] = (0, 0)  # columns and rows
    spacing: tuple[float, float] = (1.0, 1.0)  # mm between columns and between rows
    across: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,) direction of a row, LPS
    down: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,) direction of a column, LPS
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # (N, 3) first voxel of each plane, LPS mm
    rescale: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # (N, 2) slope and intercept of each plane
    fault: str | None = None  # why they are not part of a scan, or None

    def is_like(self, other: "Planes") -> bool:
        """Whether both could be of one volume: same size, voxel size and orientation."""
        return (
            self.size == other.size
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
            and np.allclose(self.across, other.across, atol=1e-3)
            and np.allclose(self.down, other.down, atol=1e-3)
        )


class _Fault(ScanError):
    """Why a file is not part of a scan."""


def read_planes(path: Path) -> Planes:
    """Read the tags of a file; the result has a fault if it is not an image or not part of a scan."""
    found = Planes(path, str(path.parent), "DICOM")
    try:
        with quietly(path, "it"):
            data, is_complete = parsed(path, _TAGS)
            number = data.get("InstanceNumber")
            found = Planes(
                path,
                series=str(data.get("SeriesInstanceUID") or path.parent),
                modality=re.sub(r"[^A-Z0-9]", "", str(data.get("Modality", "")).upper())[:16] or "DICOM",
                identity=tuple(str(data.get(name) or "") for name in _IDENTITY),
                number=None if number is None else int(number),
                enhanced=_ENHANCED.fullmatch(str(data.get("SOPClassUID", ""))) is not None,
            )
            _refuse_no_scan(data)
            if not is_complete:
                raise _Fault(UNREADABLE)
            return _placed(found, data)
    except _Fault as fault:
        return replace(found, fault=str(fault))
    except ScanError:
        return replace(found, enhanced=False, fault=UNREADABLE)


def _refuse_no_scan(data: Any) -> None:
    kind = str(data.get("SOPClassUID", ""))
    if SEGMENTATION.fullmatch(kind):
        raise _Fault("a DICOM segmentation, which is a label map and no scan")
    if kind == _DOSE:
        raise _Fault("a dose, which is no scan")
    if _SECONDARY_CAPTURE.fullmatch(kind):
        raise _Fault("a secondary capture (a picture of a screen), which is no scan")
    if "LOCALIZER" in str(data.get("ImageType", "")).upper():
        raise _Fault("a localizer, which only plans the scan")
    if int(data.get("SamplesPerPixel") or 1) != 1:
        raise _Fault("a coloured image, which is no scan")


def _placed(found: Planes, data: Any) -> Planes:
    """The planes with their positions and rescaling."""
    if not found.enhanced and int(data.get("NumberOfFrames") or 1) > 1:
        raise _Fault("frames that do not say where they lie in space")
    frames = _enhanced_frames(data) if found.enhanced else [(data, data, data, data)]
    try:
        positions = np.array([place.ImagePositionPatient for place, *_ in frames], dtype=float)
        turns = np.array([turn.ImageOrientationPatient for _, turn, *_ in frames], dtype=float)
        sizes = np.array([size.PixelSpacing for _, _, size, _ in frames], dtype=float)
        shaped = (positions.shape[1:], turns.shape[1:], sizes.shape[1:]) == ((3,), (6,), (2,))
    except (AttributeError, TypeError, ValueError):
        shaped = False
    if not shaped or not all(np.all(np.isfinite(each)) for each in (positions, turns, sizes)) or sizes.min() <= 0:
        raise _Fault("an image that does not say where it lies in space")
    for values, what in ((turns, "orientations"), (sizes, "voxel sizes")):
        if not np.allclose(values, values[0], atol=1e-3):
            raise _Fault(f"frames of several {what}; separate them where the file is from")
    across, down = turns[0].reshape(2, 3)
    if abs(across @ down) > 1e-3 or not np.allclose([across @ across, down @ down], 1, atol=1e-2):
        raise _Fault("an image whose axes are not at right angles")
    rescale = [(_number(each, "RescaleSlope", 1), _number(each, "RescaleIntercept", 0)) for *_, each in frames]
    return replace(
        found,
        size=(int(data.Columns), int(data.Rows)),
        spacing=(float(sizes[0, 1]), float(sizes[0, 0])),  # in DICOM, the distance of rows is first
        across=across,
        down=down,
        positions=positions,
        rescale=np.array(rescale, dtype=float),
    )


def _enhanced_frames(data: Any) -> list[tuple[Any, ...]]:
    """The data sets with position, orientation, voxel size and rescaling of each frame, its own or the shared ones."""
    shared = data.SharedFunctionalGroupsSequence[0]

    def group(frame: Any, name: str) -> Any:
        sequence = getattr(frame, name, None) or getattr(shared, name, None)
        return sequence[0] if sequence else None

    names = ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
    frames = data.PerFrameFunctionalGroupsSequence
    return [tuple(group(frame, f"{name}Sequence") for name in names) for frame in frames]


def _number(data: Any, name: str, default: float) -> float:
    value = getattr(data, name, None)
    return default if value is None or value == "" else float(value)

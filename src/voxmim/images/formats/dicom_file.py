"""One DICOM file through pydicom: what its tags say of its planes, and their voxels.

A slice of a classic series is one plane; an enhanced file holds many, each with a place and a rescaling of its own.
Names and numbers of patients are compared and never leave this room.
"""

from __future__ import annotations

import logging
import mmap
import re
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
)

from voxmim.errors import ScanError

UNREADABLE = "no image, or one that cannot be read"
_STORAGE = r"1\.2\.840\.10008\.5\.1\.4\.1\.1\."
_ENHANCED = re.compile(_STORAGE + r"(2\.1|2\.2|4\.1|4\.4|128\.1|130)")
_SECONDARY_CAPTURE = re.compile(_STORAGE + r"7(\.\d)?")
_SEGMENTATION = re.compile(_STORAGE + r"66\.[47]")
_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_PIXELS = 0x7FE00010
_OPEN = 0xFFFFFFFF  # the length of what runs to a mark of its end
_RATIO = 5000  # times that a picture of one grey value may be packed
_BARE = re.compile(rb"[\x02\x08]\x00.\x00([A-Z]{2}|.\x00\x00\x00)|\x00\x08\x00.[A-Z]{2}", re.DOTALL)  # without preamble
# What all files of a series share, by the standard's model of patient, study, series and frame of reference.
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
    """The planes of one DICOM file, without their voxels.

    Attributes:
        path: the file.
        series: the series' own number (UID), or the folder where the file has none.
        modality: ``CT``, ``MR`` and so on.
        identity: what all files of the series have in common; never to be shown.
        number: of the instance in its series, None where the file has none.
        enhanced: the file holds many planes.
        size: columns and rows.
        spacing: mm between columns and between rows.
        across, down: (3,) directions of a row and of a column, LPS.
        positions: (N, 3) centre of each plane's first voxel, LPS mm.
        rescale: (N, 2) slope and intercept of each plane.
        fault: why they are not part of a scan, or None.
    """

    path: Path
    series: str
    modality: str
    identity: tuple[str, ...] = field(default=(), repr=False)
    number: int | None = None
    enhanced: bool = False
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] = (1.0, 1.0)
    across: np.ndarray = field(default_factory=lambda: np.zeros(3))
    down: np.ndarray = field(default_factory=lambda: np.zeros(3))
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    rescale: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    fault: str | None = None

    def is_like(self, other: Planes) -> bool:
        """Whether both could be of one volume: same size, voxel size and orientation."""
        return (
            self.size == other.size
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
            and np.allclose(self.across, other.across, atol=1e-3)
            and np.allclose(self.down, other.down, atol=1e-3)
        )


class _Fault(Exception):
    """Why a file is not part of a scan."""


@contextmanager
def quietly(path: Path, what: str) -> Iterator[None]:
    """Run pydicom or highdicom: their messages, which may quote tags, are silenced, their errors made ours.

    Raises:
        ScanError: they fail.
    """
    disabled = logging.root.manager.disable
    try:
        logging.disable()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ScanError, _Fault):
        raise
    except Exception:  # on damaged bytes a parser may fail in any way, and what it says may quote them
        text = f"{path}: {what} cannot be read; the file is cut off or damaged, copy it again."
        raise ScanError(text, "cut off") from None
    finally:
        logging.disable(disabled)


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM does, with a preamble or without one, or is at least called so."""
    try:
        with path.open("rb") as file:
            content = file.read(132)
    except OSError:
        return False
    return content[128:] == b"DICM" or path.suffix.lower() == ".dcm" or _BARE.match(content) is not None


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    try:
        with quietly(path, "it"):
            kind = read_file_meta_info(path).get("MediaStorageSOPClassUID", "")
            return _SEGMENTATION.fullmatch(str(kind)) is not None
    except ScanError:
        return False


def read_planes(path: Path) -> Planes:
    """Read the tags of a file; one that is no image, or not part of a scan, comes with its fault."""
    found = Planes(path, str(path.parent), "DICOM", fault=UNREADABLE)
    try:
        with quietly(path, "it"):
            data, is_complete = _parsed(path, pixels=False)
            series = str(data.get("SeriesInstanceUID") or path.parent)
            modality = re.sub(r"[^A-Z0-9]", "", str(data.get("Modality", "")).upper())[:16] or "DICOM"
            identity = tuple(str(data.get(name) or "") for name in _IDENTITY)
            enhanced = _ENHANCED.fullmatch(str(data.get("SOPClassUID", ""))) is not None
            number = data.get("InstanceNumber")
            found = Planes(path, series, modality, identity, None if number is None else int(number), enhanced)
            _refuse_no_scan(data)
            if not is_complete:
                raise _Fault(UNREADABLE)
            return _placed(found, data)
    except _Fault as fault:
        return Planes(path, found.series, found.modality, found.identity, enhanced=found.enhanced, fault=str(fault))
    except ScanError:
        return Planes(path, found.series, found.modality, found.identity, fault=UNREADABLE)


def read_pixels(path: Path) -> np.ndarray:
    """(N, rows, columns) stored values of a file's planes, not rescaled.

    Raises:
        ScanError: they cannot be read.
    """
    with quietly(path, "its voxels"):
        data, is_complete = _parsed(path, pixels=True)
        if not is_complete:
            raise EOFError
        if data.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes:
            for frame in _frames(data):
                if struct.unpack(">2I", frame[8:16]) != (data.Columns, data.Rows) or frame[40:42] != b"\0\1":
                    raise EOFError  # decoders take memory for the size and the components that a frame claims
        try:
            stored = data.pixel_array
        except (NotImplementedError, RuntimeError):  # pydicom has no decoder for it
            stored = _decoded_by_gdcm(data)
    return stored[None] if stored.ndim == 2 else stored


def _frames(data: Any) -> Iterator[bytes]:
    return generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1))


def _decoded_by_gdcm(data: Any) -> np.ndarray:
    """(N, rows, columns) values of compressed frames, each given to ITK's GDCM as a picture of its own."""
    picture, planes = pydicom.Dataset(), []
    picture.file_meta = pydicom.dataset.FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    picture.SOPClassUID = picture.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    picture.SOPInstanceUID = picture.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    for name in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
                 "HighBit", "PixelRepresentation"):  # fmt: skip
        setattr(picture, name, data.get(name))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "frame.dcm")
        for frame in _frames(data):
            picture.PixelData = encapsulate([frame])
            picture["PixelData"].VR = "OB"
            picture.save_as(file, enforce_file_format=True)
            planes.append(
                sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO")).reshape(data.Rows, -1)
            )
    return np.stack(planes)


def _parsed(path: Path, pixels: bool) -> tuple[Any, bool]:
    """The tags, up to the voxels or with them; and whether the file holds as many voxels as they claim.

    The file is mapped, so that no claimed length takes memory; what stands behind the voxels is not looked at.
    """
    length, behind = 0, False

    def stops(tag: int, _: str | None, size: int) -> bool:
        nonlocal length, behind
        if tag == _PIXELS:
            length = size
        stop, behind = behind or (tag == _PIXELS and not pixels), tag == _PIXELS
        return stop

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        held = len(mapped)
        data = read_partial(mapped, stops, force=True, specific_tags=None if pixels else _TAGS)  # type: ignore[arg-type]
        place = mapped.tell()
    implicit, little = data.original_encoding
    syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    rows, columns, bits = (int(data.get(name) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
    claimed = rows * columns * int(data.get("NumberOfFrames") or 1) * int(data.get("SamplesPerPixel") or 1) * bits // 8
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        return data, 0 < claimed <= held * _RATIO and length > 0
    if not pixels and syntax != DeflatedExplicitVRLittleEndian and place + length > held:
        return data, False
    return data, 0 < claimed <= length


def _refuse_no_scan(data: Any) -> None:
    kind = str(data.get("SOPClassUID", ""))
    if _SEGMENTATION.fullmatch(kind):
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
    """The planes with their places and rescaling."""
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
    return Planes(
        found.path, found.series, found.modality, found.identity, found.number, found.enhanced,
        size=(int(data.Columns), int(data.Rows)),
        spacing=(float(sizes[0, 1]), float(sizes[0, 0])),  # DICOM names the distance of rows first
        across=across,
        down=down,
        positions=positions,
        rescale=np.array(rescale, dtype=float),
    )  # fmt: skip


def _enhanced_frames(data: Any) -> list[tuple[Any, ...]]:
    """Of each frame what tells its place, orientation, voxel size and rescaling, its own or the file's."""
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

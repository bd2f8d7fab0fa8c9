"""The few tags of a DICOM file that are looked at; names of patients and descriptions are not among them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxmim.images.formats.dicom_bytes import is_whole

_ENHANCED = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2\.1|2\.2|4\.1|4\.4|128\.1|130)")
_SECONDARY_CAPTURE = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.7(\.\d)?")
_SEGMENTATION = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47]")
_MEDIA_CLASS = b"\x02\x00\x02\x00UI"  # the tag (0002,0002), always of little endian and explicit type
_META = 1024  # bytes, in which it lies
_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
UNREADABLE = "no image, or one that cannot be read"


@dataclass(frozen=True, eq=False)
class Slice:
    """One DICOM file, without its voxels.

    Attributes:
        path: the file.
        series: the series' own number (UID), or the folder where the file tells none.
        modality: ``CT``, ``MR`` and so on.
        size: columns and rows.
        spacing: mm between columns and between rows.
        position: (3,) of the first voxel's centre, LPS mm.
        across, down: (3,) directions of a row and of a column, LPS.
        enhanced: the file holds many frames, each with a place of its own.
        fault: why it is no slice of a scan, or None.
    """

    path: Path
    series: str
    modality: str
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] = (1.0, 1.0)
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))
    across: np.ndarray = field(default_factory=lambda: np.zeros(3))
    down: np.ndarray = field(default_factory=lambda: np.zeros(3))
    enhanced: bool = False
    fault: str | None = None

    def like(self, other: Slice) -> bool:
        """Tell whether both could be of one volume: same size, voxel size and orientation."""
        return (
            self.size == other.size
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
            and np.allclose(self.across, other.across, atol=1e-3)
            and np.allclose(self.down, other.down, atol=1e-3)
        )


def media_class(path: Path) -> str:
    """What kind of object (SOP class UID) a DICOM file is, by its first bytes; empty where they don't say."""
    try:
        with path.open("rb") as file:
            content = file.read(_META)
    except OSError:
        return ""
    place = content.find(_MEDIA_CLASS) + len(_MEDIA_CLASS)
    if content[128:132] != b"DICM" or place < 132 or len(content) < place + 2:
        return ""
    length = int.from_bytes(content[place : place + 2], "little")
    return content[place + 2 : place + 2 + length].decode("latin-1").strip(" \0")


def is_segmentation_class(kind: str) -> bool:
    """Tell whether an SOP class UID is that of a DICOM segmentation."""
    return _SEGMENTATION.fullmatch(kind) is not None


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file begins as DICOM does, or is at least called so."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"
    except OSError:
        return False


def read_slice(path: Path) -> Slice:
    """Read the tags of one file; a file that is no image, or none of a scan, comes with its fault."""
    if is_segmentation_class(media_class(path)):
        return Slice(path, str(path), "SEG", fault="a DICOM segmentation, which is a label map and no scan")
    unreadable = Slice(path, str(path.parent), "DICOM", fault=UNREADABLE)
    if not is_whole(path):
        return unreadable
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOff()
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return unreadable

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip(" \0") if reader.HasMetaDataKey(key) else ""

    series = tag("0020|000e") or str(path.parent)
    modality = re.sub(r"[^A-Z0-9]", "", tag("0008|0060").upper())[:16] or "DICOM"
    kind, frames = tag("0008|0016"), tag("0028|0008")
    if fault := _not_a_scan(kind, tag("0008|0008"), tag("0028|0002")):
        return Slice(path, series, modality, fault=fault)
    if _ENHANCED.fullmatch(kind):
        return Slice(path, series, modality, enhanced=True)
    if frames.isdecimal() and int(frames) > 1:
        return Slice(path, series, modality, fault="frames that do not say where they lie in space")
    position, orientation, spacing = (_numbers(tag(key)) for key in ("0020|0032", "0020|0037", "0028|0030"))
    if len(position) != 3 or len(orientation) != 6 or len(spacing) != 2 or min(spacing) <= 0:
        return Slice(path, series, modality, fault="an image that does not say where it lies in space")
    across, down = orientation[:3], orientation[3:]
    right_angled = abs(across @ down) < 1e-3 and np.allclose([across @ across, down @ down], 1, atol=1e-2)
    if not right_angled:
        return Slice(path, series, modality, fault="an image whose axes are not at right angles")
    columns, rows = reader.GetSize()[:2]
    spaced = (float(spacing[1]), float(spacing[0]))  # DICOM names the distance of rows first
    return Slice(path, series, modality, (columns, rows), spaced, position, across, down)


def _not_a_scan(kind: str, image_type: str, samples: str) -> str | None:
    """Why a file of this class (SOP class UID) and image type is left out, or None."""
    if kind == _DOSE:
        return "a dose, which is no scan"
    if _SECONDARY_CAPTURE.fullmatch(kind):
        return "a secondary capture (a picture of a screen), which is no scan"
    if "LOCALIZER" in image_type.upper():
        return "a localizer, which only plans the scan"
    if samples not in ("", "1"):
        return "a coloured image, which is no scan"
    return None


def _numbers(text: str) -> np.ndarray:
    """The numbers between backslashes; none where one of them is no finite number."""
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return np.zeros(0)
    return values if np.all(np.isfinite(values)) else np.zeros(0)

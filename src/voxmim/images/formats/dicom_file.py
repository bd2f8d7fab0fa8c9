"""Reading the tags and voxels of one DICOM file with pydicom.

No memory is allocated for voxels that a file claims but does not have. Messages of pydicom are silenced, because they
may quote tags.
"""

import logging
import mmap
import re
import struct
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
)

from voxmim.errors import ScanError

SEGMENTATION = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47]")  # SOP class
_ONE_THREAD = threading.RLock()  # logging and warnings are settings of the whole process
_PIXELS = 0x7FE00010
_RATIO = 5000  # largest compression ratio, of a constant image
_BARE = re.compile(rb"[\x02\x08]\x00.\x00([A-Z]{2}|.\x00\x00\x00)|\x00\x08\x00.[A-Z]{2}", re.DOTALL)  # without preamble


@contextmanager
def quietly(path: Path, what: str) -> Iterator[None]:
    """Silence pydicom and highdicom, whose messages may quote tags, and turn their errors into ScanError."""
    with _ONE_THREAD, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable()
        try:
            yield
        except ScanError:
            raise
        except Exception:  # a parser may raise any kind for damaged bytes, and its message may quote tags
            text = f"{path}: {what} cannot be read; the file is cut off or damaged, copy it again."
            raise ScanError(text, "cut off") from None
        finally:
            logging.disable(disabled)


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins like DICOM, with or without a preamble, or has the ending .dcm."""
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
            return SEGMENTATION.fullmatch(str(kind)) is not None
    except ScanError:
        return False


def read_pixels(path: Path) -> np.ndarray:
    """(N, rows, columns) stored values of a file's planes, not rescaled; raises ScanError if they cannot be read."""
    with quietly(path, "its voxels"):
        data, is_complete = parsed(path)
        if not is_complete:
            raise EOFError
        if data.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes:
            for frame in _frames(data):
                if struct.unpack(">2I", frame[8:16]) != (data.Columns, data.Rows) or frame[40:42] != b"\0\1":
                    raise EOFError  # decoders allocate memory for the size and components that a frame claims
        try:
            stored = data.pixel_array
        except (NotImplementedError, RuntimeError):  # pydicom has no decoder for it
            stored = _decoded_by_gdcm(data)
    return stored[None] if stored.ndim == 2 else stored


def _frames(data: Any) -> Iterator[bytes]:
    return generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1))


def _decoded_by_gdcm(data: Any) -> np.ndarray:
    """(N, rows, columns) values of compressed frames, each decoded as a file of its own by ITK's GDCM."""
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


def parsed(path: Path, tags: list[BaseTag] | None = None) -> tuple[Any, bool]:
    """Parse these tags, or all and the voxels; and whether the file has as many voxels as they claim.

    The file is mapped, so that a claimed length takes no memory; tags after the voxels are not read.
    """
    length, behind, pixels = 0, False, tags is None

    def stops(tag: int, _: str | None, size: int) -> bool:
        nonlocal length, behind
        if tag == _PIXELS:
            length = size
        stop, behind = behind or (tag == _PIXELS and not pixels), tag == _PIXELS
        return stop

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        held = len(mapped)
        data = read_partial(mapped, stops, force=True, specific_tags=tags)  # type: ignore[arg-type]
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

"""NRRD and MetaImage with SimpleITK.

Headers are checked first, because ITK allocates memory for all voxels that a header claims, crashes on some damaged
headers, and ignores units.
"""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxmim.errors import ScanError
from voxmim.images.grid import LPS_TO_RAS
from voxmim.images.image_file import ImageFile
from voxmim.images.walk import has_utf8_name, printable

READERS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_MAX_HEADER = 1 << 20  # bytes
_RATIO = 1100  # largest compression ratio of deflate
_MM = {
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "micrometer": 1e-3,
    "cm": 10.0, "centimeter": 10.0, "m": 1e3, "meter": 1e3,
}  # fmt: skip
_SPACES = re.compile(r"(right-anterior|left-anterior|left-posterior)-superior(-time)?|(ra|la|lp)st?")
# The number of values of a MetaImage's field is the dimension to this power.
_POWERS = {
    "DimSize": 1, "ElementSpacing": 1, "ElementSize": 1, "Offset": 1, "Origin": 1, "Position": 1, "CenterOfRotation": 1,
    "TransformMatrix": 2, "Orientation": 2, "Rotation": 2,
}  # fmt: skip

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # warnings bypass Python and may quote headers


@dataclass(frozen=True)
class _Header:
    """A parsed header."""

    fields: dict[str, str]  # by name in lower case
    length: int  # in bytes
    data: str | None  # the file of the voxels, None if it is this one
    compressed: bool
    packed: int = 0  # bytes of the compressed voxels, if known


def open_text_header(path: Path) -> ImageFile:
    """Parse the header of an NRRD or MetaImage file; raises ScanError if it is damaged or its voxels are missing."""
    if not has_utf8_name(path):
        raise ScanError(f"{printable(path)}: ITK reads no file whose path is not UTF-8; rename it.")
    meta = READERS[path.suffix.lower()] == "MetaImageIO"
    header = _meta_header(path) if meta else _nrrd_header(path)
    _refuse_missing(path, header.data)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove the file.") from None
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    sizes = (*size, components) if components > 1 else size

    def load() -> np.ndarray:
        bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()))
        _refuse_truncated(path, header, prod(sizes) * int(bits[1] if bits else 8) // 8)
        try:
            array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise ScanError(
                f"{path}: its voxels cannot be read ({_reason(error)}); the file is cut off or damaged, copy it again.",
                "cut off",
            ) from None
        return np.moveaxis(array.transpose(), 0, -1) if components > 1 else array.transpose()

    doubts = []
    if meta:
        oriented = bool({"transformmatrix", "orientation", "rotation"} & header.fields.keys())
    else:
        space = _SPACES.fullmatch(header.fields.get("space", "").lower())
        oriented = space is not None and "space directions" in header.fields
    if not oriented:
        doubts.append(("no orientation", f"{path}: its header has no orientation; which side is left is a guess."))
    affine = LPS_TO_RAS @ _in_mm(header.fields) @ _affine_of(reader) if reader.GetDimension() >= 3 else np.eye(4)
    return ImageFile(path, sizes, affine, load, tuple(doubts), partial=".seg" in path.suffixes[-2:-1])


def _affine_of(reader: sitk.ImageFileReader) -> np.ndarray:
    """(4, 4) to the LPS world, in the header's unit."""
    dimension = reader.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return affine


def _in_mm(fields: dict[str, str]) -> np.ndarray:
    """(4, 4) from the header's unit along each world axis to mm; unknown units are mm."""
    named = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    named = [fields["distanceunits"]] if "distanceunits" in fields else [unit for unit in named if unit.strip()]
    scales = [_MM.get(unit.strip().lower().removesuffix("s").replace("metre", "meter"), 1.0) for unit in named]
    scales = scales[:3] if len(scales) >= 3 else (scales[:1] or [1.0]) * 3
    return np.diag([*scales, 1.0])


def _nrrd_header(path: Path) -> _Header:
    length, fields = _fields(path, rb"\r?\n\r?\n", ":")
    data = fields.get("data file") or fields.get("datafile")
    if length == 0 and data is None:
        fields = {}  # truncated, which ITK reports
    return _Header(fields, length, data, fields.get("encoding", "raw").lower() != "raw")


def _meta_header(path: Path) -> _Header:
    """The header of a MetaImage; raises ScanError if a field has the wrong number of values, on which ITK crashes."""
    length, fields = _fields(path, rb"(?im)^ElementDataFile\s*=.*(\n|\Z)", "=")
    dimension = fields.get("ndims", "")
    wrong = "ElementDataFile" if length == 0 else None if dimension in ("1", "2", "3", "4") else "NDims"
    for name, power in () if wrong else _POWERS.items():
        try:
            values = [float(part) for part in fields.get(name.lower(), "").split()]
        except ValueError:
            wrong = name
        else:
            needed = name == "DimSize" or name.lower() in fields
            wrong = name if needed and len(values) != int(dimension) ** power else wrong
    if wrong is None and not fields.get("dimsize", "").replace(" ", "").isdecimal():
        wrong = "DimSize"
    if wrong is not None:
        raise ScanError(f"{path}: its header is damaged ({wrong} is not as it should be); copy it again.")
    data, packed = fields["elementdatafile"], fields.get("compresseddatasize", "")
    compressed = fields.get("compresseddata", "").lower() in ("true", "1")
    binary = fields.get("binarydata", "true").lower() in ("true", "1")
    return _Header(
        fields, length, None if data.upper() == "LOCAL" else data, compressed or not binary,
        int(packed) if compressed and packed.isdecimal() else 0,
    )  # fmt: skip


def _fields(path: Path, end: bytes, sign: str) -> tuple[int, dict[str, str]]:
    """The header's length in bytes, 0 if it has no end, and its fields."""
    with path.open("rb") as file:
        content = file.read(_MAX_HEADER)
    match = re.search(end, content)
    lines = content[: match.end() if match else _MAX_HEADER].decode("utf-8", "replace").splitlines()
    pairs = (line.partition(sign) for line in lines)
    fields = {key.strip().lower(): value.strip() for key, split, value in pairs if split}
    return match.end() if match else 0, fields


def _refuse_missing(path: Path, data: str | None) -> None:
    """Raise ScanError if the voxels are in a missing file or in several files."""
    if not data:
        return
    if data.upper().startswith("LIST") or "%" in data:
        raise ScanError(f"{path}: its voxels lie in several files; convert it to one file.")
    try:
        exists = (path.parent / data).is_file()
    except (OSError, ValueError):  # an invalid name
        exists = False
    if not exists:
        raise ScanError(f"{path}: its voxels should lie in {data}, which is missing; put the file beside it.")


def _refuse_truncated(path: Path, header: _Header, claimed: int) -> None:
    """Raise ScanError if a file has fewer voxels than its header claims (`claimed` bytes)."""
    if not header.fields:
        return
    size = (path.parent / header.data).stat().st_size if header.data else path.stat().st_size - header.length
    if size < max(claimed / _RATIO if header.compressed else claimed, header.packed):
        raise ScanError(
            f"{path}: the header claims {claimed} bytes of voxels, but there are {size}; "
            "the file is cut off or damaged, copy it again.",
            "cut off",
        )


def _reason(error: Exception) -> str:
    """The last line of an ITK error, without addresses."""
    text = re.sub(r"\w+\(0x[0-9a-fA-F]+\): ", "", str(error))  # class and address of the ITK object
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ").rstrip(".!")[-160:]

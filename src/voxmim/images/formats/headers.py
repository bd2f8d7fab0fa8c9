"""The text headers of NRRD and MetaImage: where the voxels lie, and whether there can be as many as are claimed.

ITK takes memory for what a header claims before it looks for the voxels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from voxmim.errors import ScanError

_LONGEST = 1 << 20  # bytes of a header
_MOST = 1100  # times that deflate can shrink

# Field of a MetaImage to the power of the dimension that is the count of its numbers.
_NUMBERS = {
    "DimSize": 1, "ElementSpacing": 1, "ElementSize": 1, "Offset": 1, "Origin": 1, "Position": 1, "CenterOfRotation": 1,
    "TransformMatrix": 2, "Orientation": 2, "Rotation": 2,
}  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """What a header tells: the file of the voxels (None: this one), its own length, and how they are stored."""

    data: str | None
    length: int
    compressed: bool
    size: int | None  # in bytes of what is compressed


def refuse_missing(path: Path) -> None:
    """Refuse a header whose voxels lie in a file that is missing, or in several.

    Raises:
        ScanError: as said.
    """
    told = _told(path)
    if told is None or not told.data:
        return
    if told.data.upper().startswith("LIST") or "%" in told.data:
        raise ScanError(f"{path}: its voxels lie in several files; convert it to one file.")
    try:
        there = (path.parent / told.data).is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise ScanError(f"{path}: its voxels should lie in {told.data}, which is missing; put the file beside it.")


def refuse_malformed(path: Path) -> None:
    """Refuse a MetaImage header whose fields do not hold as many numbers as its dimension asks for.

    ITK's reader believes the dimension, whatever it is, and crashes.

    Raises:
        ScanError: as said.
    """
    _, fields = _fields(path)
    dimension = fields.get("ndims", "")
    wrong = None if dimension in ("1", "2", "3", "4") else "NDims" if fields else "ElementDataFile"
    for name, power in () if wrong else _NUMBERS.items():
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


def refuse_boastful(path: Path, claimed: int) -> None:
    """Refuse a file that holds fewer voxels than its header claims.

    Args:
        path: the file with the header.
        claimed: bytes of all voxels in memory.

    Raises:
        ScanError: as said.
    """
    told = _told(path)
    if told is None:
        return
    held = (path.parent / told.data).stat().st_size if told.data else path.stat().st_size - told.length
    least = claimed / _MOST if told.compressed else claimed
    if held < max(least, told.size or 0):
        raise ScanError(
            f"{path}: the header claims {claimed} bytes of voxels, but there are {held}; "
            "the file is cut off or damaged, copy it again.",
            "cut off",
        )


def _fields(path: Path) -> tuple[int, dict[str, str]]:
    """The header's length in bytes, and its fields with names in small letters; none where it has no end."""
    with path.open("rb") as file:
        content = file.read(_LONGEST)
    nrrd = content.startswith(b"NRRD")
    end = re.search(rb"\r?\n\r?\n" if nrrd else rb"(?im)^ElementDataFile\s*=.*(\n|\Z)", content)
    if end is None and not (nrrd and b"\ndata" in content):
        return 0, {}
    length = end.end() if end else len(content)
    pairs = (line.partition(":" if nrrd else "=") for line in content[:length].decode("latin-1").splitlines())
    return length, {key.strip().lower(): value.strip() for key, found, value in pairs if found}


def _told(path: Path) -> _Told | None:
    """None where the header is neither of NRRD nor of MetaImage, or is cut off: ITK says so."""
    length, fields = _fields(path)
    if not fields:
        return None
    if "elementdatafile" not in fields:
        data = fields.get("data file") or fields.get("datafile")
        return _Told(data, length, fields.get("encoding", "raw").lower() != "raw", None)
    data = None if fields["elementdatafile"].upper() == "LOCAL" else fields["elementdatafile"]
    compressed = fields.get("compresseddata", "").lower() in ("true", "1")
    binary = fields.get("binarydata", "true").lower() in ("true", "1")
    size = fields.get("compresseddatasize", "")
    return _Told(data, length, compressed or not binary, int(size) if compressed and size.isdecimal() else None)

"""Is a DICOM file whole? A walk over the lengths of its elements.

GDCM takes memory for every length that a file claims, up to 4 GiB, before it finds that the file ends sooner; so no
file goes there whose lengths do not fit. The layout is that of the standard's part 5, chapter 7.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_IMPLICIT, _BIG_ENDIAN, _DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".2", ".1.99"))
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SYNTAX = (0x0002, 0x0010)
_PIXELS = (0x7FE0, 0x0010)
_ITEM = (0xFFFE, 0xE000)
_MARKS = (_ITEM, (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))  # the begin and the end of an item, the end of a sequence
_OPEN = 0xFFFFFFFF  # the length of what runs to the end of its sequence


def is_whole(path: Path) -> bool:
    """Tell whether every element of a DICOM file ends before the file does."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(128)
        file.seek(132 if file.read(4) == b"DICM" else 0)
        try:
            return _fits(file, end)
        except struct.error:  # the file ends within the head of an element
            return False


def _fits(file: BinaryIO, end: int) -> bool:
    order, implicit, in_meta, fragments = "<", False, True, False
    syntax = _IMPLICIT
    while (place := file.tell()) < end:
        group, element = struct.unpack(f"{order}2H", file.read(4))
        if in_meta and group != 2:
            if syntax == _DEFLATED:
                return True
            order, implicit, in_meta = ">" if syntax == _BIG_ENDIAN else "<", syntax == _IMPLICIT, False
            file.seek(place)
            continue
        tag = (group, element)
        kind, length = _kind_and_length(file, order, implicit or tag in _MARKS)
        if length == _OPEN:
            fragments = tag == _PIXELS
        elif tag in _MARKS and not (fragments and tag == _ITEM):
            fragments = False
        elif length > end - file.tell():
            return False
        elif tag == _SYNTAX:
            syntax = file.read(length).decode("latin-1").strip(" \0")
        elif kind != b"SQ" and not (implicit and _begins_with_item(file, length)):
            file.seek(length, os.SEEK_CUR)
    return True


def _kind_and_length(file: BinaryIO, order: str, implicit: bool) -> tuple[bytes, int]:
    """The type of an element, empty where it is not told, and its length."""
    head = file.read(4)
    if implicit or not (head[:2].isalpha() and head[:2].isupper()):
        return b"", struct.unpack(f"{order}I", head)[0]
    if head[:2] in _LONG:
        return head[:2], struct.unpack(f"{order}I", file.read(4))[0]
    return head[:2], struct.unpack(f"{order}H", head[2:])[0]


def _begins_with_item(file: BinaryIO, length: int) -> bool:
    """Tell whether a value is a sequence, which a file of implicit types does not say."""
    head = file.read(4)
    file.seek(-len(head), os.SEEK_CUR)
    return length >= 8 and head == struct.pack("<2H", *_ITEM)

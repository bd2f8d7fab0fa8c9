"""A stream of a gzip file: twice as fast as Python's, and it ignores bytes after the last member."""

import io
from typing import Any, BinaryIO

from isal import isal_zlib

GZIP = b"\x1f\x8b"
ZipError: Any = isal_zlib.error  # its own type stub is wrong
_PART = 1 << 20  # bytes
_WITH_HEADER = 31  # the code of gzip's own header and checksum


class Unzipped(io.RawIOBase):
    """The unzipped content of a file, which may have several members; anything after the last is ignored.

    Reading raises EOFError if the file is truncated, and `ZipError` if it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._packed = file, b""
        self._member = isal_zlib.decompressobj(_WITH_HEADER)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._member.eof or self._next_member():
            packed = self._packed or self._file.read(_PART)
            content = self._member.decompress(packed, len(buffer))
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if content:
                buffer[: len(content)] = content
                return len(content)
            if not packed and not self._member.eof:
                raise EOFError
        return 0

    def _next_member(self) -> bool:
        self._packed = self._packed if len(self._packed) > 1 else self._packed + self._file.read(_PART)
        if self._packed[:2] != GZIP:
            return False
        self._member = isal_zlib.decompressobj(_WITH_HEADER)
        return True

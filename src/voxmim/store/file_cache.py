"""A cache of the files of a store in memory.

A file is read at once, which is as fast on a network file system as on a disk. A few crops are decompressed from the
cached bytes; for many crops of one scan, the whole array is decompressed once and cached.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

LIMIT = 2**30  # bytes of arrays and compressed files in a process
_LARGE = 2**26  # bytes; larger files stay on disk, and larger arrays compressed
blosc2.set_nthreads(1)  # crops are read in one thread beside the training

Slices = tuple[slice, ...]


class CachedFile:
    """One Blosc2 file; its `stamp` (inode, size, modification time) changes when the file is replaced."""

    def __init__(self, file: Path, stamp: tuple[int, int, int]) -> None:
        """Read the file; raises ValueError if it cannot be opened, and other errors of Blosc2."""
        self.stamp, self._read = stamp, 0
        self._whole: np.ndarray | None = None
        self._bytes = stamp[1] if stamp[1] <= _LARGE else 0
        try:
            if self._bytes:
                self._array = blosc2.ndarray_from_cframe(file.read_bytes(), copy=True)
            else:
                self._array = blosc2.open(str(file), mode="r")
        except RuntimeError:
            raise ValueError("Blosc2 cannot open it") from None
        self.shape, self.dtype, self._size = tuple(self._array.shape), np.dtype(self._array.dtype), self._array.nbytes
        self.meta: dict[str, Any] = self._array.schunk.vlmeta.getall()

    @property
    def nbytes(self) -> int:
        """Its memory."""
        return self._bytes + (0 if self._whole is None else self._whole.nbytes)

    def whole(self) -> np.ndarray:
        """The array."""
        return self._array[...] if self._whole is None else self._whole.copy()

    def box(self, box: Slices, voxels: int = 0) -> np.ndarray:
        """A box of the array, possibly read-only.

        The whole array is decompressed if as many bytes were read before, or as many `voxels` will be read in total.
        """
        expected = max(self._read, voxels * self.dtype.itemsize)
        if self._whole is None and expected >= self._size and self._size <= _LARGE:
            self._whole = self._array[...]
            self._whole.setflags(write=False)
            self._array, self._bytes = None, 0
        if self._whole is not None:
            return self._whole[box]
        values: np.ndarray = self._array[box]
        self._read += values.nbytes
        return values


class FileCache:
    """A least recently used cache of files."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, CachedFile] = OrderedDict()

    def get(self, file: Path) -> CachedFile:
        """The file, read again if it has changed; raises FileNotFoundError if it is missing."""
        status = os.stat(file)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        cached = self._files.get(file)
        if cached is None or cached.stamp != stamp:
            self._files[file] = cached = CachedFile(file, stamp)
        self._files.move_to_end(file)
        total = sum(each.nbytes for each in self._files.values())
        while total > LIMIT and len(self._files) > 1:
            _, oldest = self._files.popitem(last=False)
            total -= oldest.nbytes
        return cached

    def forget(self, file: Path) -> None:
        """Remove a file from the cache."""
        self._files.pop(file, None)

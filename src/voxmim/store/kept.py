"""The files of a store that were read last, kept in memory up to a bound.

A file is read as a whole by one read, so that crops come as quickly from a network file system as from a disk. Crops
are cut from the compressed bytes where they are few, and otherwise from the array, which is decompressed once and kept.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

LIMIT = 2**30  # bytes of arrays and compressed files that a process keeps
_LARGE = 2**26  # bytes; a larger file is left on disk, and a larger array compressed
blosc2.set_nthreads(1)  # crops are read beside the training, in one thread

Slices = tuple[slice, ...]


class KeptFile:
    """One Blosc2 file; its `mark` is of its version, since a replaced file must not be read through an old handle."""

    def __init__(self, file: Path, mark: tuple[int, ...]) -> None:
        """Read the file; raises what Blosc2 raises, ValueError where it cannot be opened."""
        self.mark, self._cut = mark, 0
        self._whole: np.ndarray | None = None
        self._bytes = mark[1] if mark[1] <= _LARGE else 0
        try:
            if self._bytes:
                self._array = blosc2.ndarray_from_cframe(file.read_bytes(), copy=True)
            else:
                self._array = blosc2.open(str(file), mode="r")
        except RuntimeError:
            raise ValueError("Blosc2 cannot open it") from None
        self.shape, self.dtype, self._size = tuple(self._array.shape), np.dtype(self._array.dtype), self._array.nbytes
        self.meta: dict[str, Any] = self._array.schunk.vlmeta.getall()  # what is noted in the file

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self._bytes + (0 if self._whole is None else self._whole.nbytes)

    def whole(self) -> np.ndarray:
        """The array."""
        return self._array[...] if self._whole is None else self._whole.copy()

    def box(self, box: Slices, voxels: int = 0) -> np.ndarray:
        """A box of the array, perhaps read-only; so many voxels are expected to be asked for in this and the next."""
        wanted = max(self._cut, voxels * self.dtype.itemsize)
        if self._whole is None and wanted >= self._size and self._size <= _LARGE:
            self._whole = self._array[...]
            self._whole.setflags(write=False)
            self._array, self._bytes = None, 0
        if self._whole is not None:
            return self._whole[box]
        found: np.ndarray = self._array[box]
        self._cut += found.nbytes
        return found


class KeptFiles:
    """The files read last; the one read longest ago is forgotten first."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, KeptFile] = OrderedDict()

    def get(self, file: Path) -> KeptFile:
        """The file, read again where it has changed; raises FileNotFoundError where it is missing."""
        now = os.stat(file)
        mark = (now.st_ino, now.st_size, now.st_mtime_ns)
        kept = self._files.get(file)
        if kept is None or kept.mark != mark:
            self._files[file] = kept = KeptFile(file, mark)
        self._files.move_to_end(file)
        total = sum(each.nbytes for each in self._files.values())
        while total > LIMIT and len(self._files) > 1:
            _, oldest = self._files.popitem(last=False)
            total -= oldest.nbytes
        return kept

    def forget(self, file: Path) -> None:
        """Read the file again next time."""
        self._files.pop(file, None)

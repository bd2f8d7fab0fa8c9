"""A store: a folder of prepared scans from which random crops are read quickly.

```
STORE/index.json          how the scans were prepared, the label names, one entry per case
STORE/images/CASE.b2nd    (C, X, Y, Z) int16 HU for CT, float16 z-scores for MR
STORE/labels/CASE.b2nd    (X, Y, Z) uint8, with up to SAMPLES voxels of each label for balanced crops
```
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from voxmim.errors import StoreError
from voxmim.findings import Finding
from voxmim.sources.source import ignored_value
from voxmim.store.index import INDEX, Case, Index, Preparation

__all__ = ["INDEX", "SAMPLES", "Case", "Index", "Preparation", "Store"]

SAMPLES = 500  # voxels kept per label and case: enough that balanced crops do not repeat
_OPEN_FILES = 64  # handles kept open per process; bounds memory whatever the number of scans
blosc2.set_nthreads(1)  # crops are read beside the training, in one thread


class Store:
    """Read access to a store by its `path`, `index` and `cases` (by name); cheap to open and to send to other
    processes.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a store; raises StoreError where the folder is missing, no store, or holds no case."""
        self.path = Path(path)
        index = Index.read(self.path)
        if index is None:
            raise StoreError(
                f"{self.path}: this is not a store (no {INDEX}); make one with 'voxmim prepare SOURCE STORE'."
            )
        if not index.cases:
            raise StoreError(f"{self.path}: the store holds no case; look at what 'voxmim prepare' reported.")
        self.index = index
        self.name, self.licence, self.seed = index.name, index.licence, index.seed
        self.preparation, self.labels, self.regions = index.preparation, dict(index.labels), dict(index.regions)
        self.findings = list(index.findings)
        self.cases = {case.name: case for case in index.cases}
        self._open: OrderedDict[tuple[str, str], tuple[blosc2.NDArray, tuple[int, ...]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when sent to another process."""
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def unresolved(self) -> list[Finding]:
        """The findings in doubt: probably wrong, and used all the same."""
        return [finding for finding in self.findings if finding.unresolved]

    def in_split(self, *splits: str) -> list[Case]:
        """The cases of one or several splits, in the order of the index."""
        return [case for case in self.cases.values() if case.split in splits]

    def labelled(self, *splits: str) -> list[Case]:
        """The cases of one or several splits that have a label map and lack no channel."""
        return [case for case in self.in_split(*splits) if case.label and not case.missing]

    def digest(self) -> str:
        """A short hash of all prepared voxels and their splits, kept with weights trained on them."""
        parts = sorted(f"{case.name}:{case.split}:{case.digest}" for case in self.cases.values())
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def image(self, name: str) -> np.ndarray:
        """(C, X, Y, Z) a prepared scan as stored: int16 HU or float16 z-scores."""
        return self._read("images", name, lambda array: array[...])

    def label_map(self, name: str) -> np.ndarray:
        """(X, Y, Z) uint8, a prepared label map."""
        return self._read("labels", name, lambda array: array[...])

    def samples(self, name: str) -> dict[int, np.ndarray]:
        """For each label present but `ignore`, (n, 3) voxel indices that carry it, n at most SAMPLES."""
        packed = self._read("labels", name, lambda array: array.schunk.vlmeta["samples"])
        ignored = ignored_value(self.labels)
        return {int(value): np.asarray(rows).reshape(-1, 3) for value, rows in packed.items() if int(value) != ignored}

    def crop(self, name: str, start: Iterable[int], size: Iterable[int]) -> np.ndarray:
        """(C, *size) a box of the scan as stored; where the box leaves the scan, voxels are `outside`."""
        return self._box("images", name, tuple(start), tuple(size), self.outside)

    def label_crop(self, name: str, start: Iterable[int], size: Iterable[int]) -> np.ndarray:
        """(*size) uint8 a box of the label map; background where the box leaves the scan."""
        return self._box("labels", name, tuple(start), tuple(size), 0)

    @property
    def outside(self) -> int:
        """The stored value of voxels outside the scan: air for CT, 0 for MR."""
        return -1024 if self.preparation.intensity == "ct" else 0

    def _box(self, kind: str, name: str, start: tuple[int, ...], size: tuple[int, ...], fill: int) -> np.ndarray:
        shape = self.cases[name].shape
        low = [max(0, s) for s in start]
        high = [max(a, min(n, s + w)) for a, n, s, w in zip(low, shape, start, size, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        lead = (slice(None),) * (kind == "images")
        found = self._read(kind, name, lambda array: array[(*lead, *inside)])
        if found.shape[-3:] == size:
            return found
        box = np.full((*found.shape[:-3], *size), fill, dtype=found.dtype)
        place = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        box[(*lead, *place)] = found
        return box

    def _read(self, kind: str, name: str, take: Callable[[blosc2.NDArray], Any]) -> Any:
        """Apply `take` to an array of the store; raises StoreError where its file is missing or damaged."""
        file, key = self.path / kind / f"{name}.b2nd", (kind, name)
        try:
            return take(self._array(file, key))
        except FileNotFoundError:
            raise StoreError(f"{file}: this file of the store is missing; run 'voxmim prepare' again.") from None
        except Exception as error:  # blosc2 raises many kinds here, none of them documented
            self._open.pop(key, None)
            raise StoreError(
                f"{file}: this file of the store is damaged ({error}); delete it and run 'voxmim prepare' again."
            ) from None

    def _array(self, file: Path, key: tuple[str, str]) -> blosc2.NDArray:
        """The open array; opened again if its file changed, since a handle on a replaced file reads noise."""
        now = os.stat(file)
        mark = (now.st_ino, now.st_size, now.st_mtime_ns)
        array, known = self._open.get(key, (None, None))
        if known != mark:
            try:
                array = blosc2.open(str(file), mode="r")
            except RuntimeError:
                raise ValueError("Blosc2 cannot open it") from None
            kind, name = key
            shape: tuple[int, ...] = self.cases[name].shape
            dtype = "uint8"
            if kind == "images":
                shape = (len(self.preparation.channels), *shape)
                dtype = "int16" if self.preparation.intensity == "ct" else "float16"
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"it holds {array.shape} {array.dtype}, but {shape} {dtype} in the index")
            self._open[key] = array, mark
        self._open.move_to_end(key)
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)
        return array

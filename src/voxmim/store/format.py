"""A store: a folder of prepared scans from which random crops are read quickly.

```
STORE/index.json          how the scans were prepared, the label names, one entry per case
STORE/images/CASE.b2nd    (C, X, Y, Z) int16 HU for CT, float16 z-scores for MR
STORE/labels/CASE.b2nd    (X, Y, Z) uint8, with up to SAMPLES voxels of each label for balanced crops
```
"""

import copy
import hashlib
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from voxmim.errors import StoreError
from voxmim.findings import Finding
from voxmim.sources.source import ignored_value
from voxmim.sources.splits import folded
from voxmim.store.file_cache import CachedFile, FileCache
from voxmim.store.index import INDEX, Case, Index, Preparation

__all__ = ["INDEX", "SAMPLES", "Case", "Index", "Preparation", "Store"]

SAMPLES = 500  # voxels per label and case: enough that balanced crops do not repeat


class Store:
    """Read access to a store by its `path`, `index` and `cases` (by name); fast to open and to send to a process."""

    def __init__(self, path: Path | str) -> None:
        """Open a store; raises StoreError if the folder is missing, no store, or holds no case."""
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
        self._cache = FileCache()

    def __getstate__(self) -> dict[str, Any]:
        """Copy the store without its cache, to another process or for another thread."""
        return {**self.__dict__, "_cache": FileCache()}

    @property
    def unresolved(self) -> list[Finding]:
        """The findings on scans that are probably wrong but used."""
        return [finding for finding in self.findings if finding.unresolved]

    def in_split(self, *splits: str) -> list[Case]:
        """The cases of one or several splits, in the order of the index."""
        return [case for case in self.cases.values() if case.split in splits]

    def labelled(self, *splits: str) -> list[Case]:
        """The cases of one or several splits that have a label map and lack no channel."""
        return [case for case in self.in_split(*splits) if case.label and not case.missing]

    def in_fold(self, fold: str | None) -> Self:
        """The same store with the splits of one fold of a cross-validation (see `folded`); None changes nothing."""
        if fold is None:
            return self
        store = copy.copy(self)
        store.cases = {case.name: case for case in folded(self.index.cases, fold, self.seed, self.path)}
        return store

    def digest(self) -> str:
        """A short hash of all prepared voxels and their splits, stored with weights trained on them."""
        parts = sorted(f"{case.name}:{case.split}:{case.digest}" for case in self.index.cases)
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def image(self, name: str) -> np.ndarray:
        """(C, X, Y, Z) stored voxels of a scan: int16 HU or float16 z-scores."""
        return self._read("images", name, CachedFile.whole)

    def label_map(self, name: str) -> np.ndarray:
        """(X, Y, Z) uint8 prepared label map."""
        return self._read("labels", name, CachedFile.whole)

    def samples(self, name: str) -> dict[int, np.ndarray]:
        """(n, 3) voxel indices of each label value except that of `ignore`, n at most SAMPLES."""
        packed = self._read("labels", name, lambda file: file.meta["samples"])
        ignored = ignored_value(self.labels)
        return {int(value): np.asarray(rows).reshape(-1, 3) for value, rows in packed.items() if int(value) != ignored}

    def crop(self, name: str, start: Iterable[int], size: Iterable[int], expected: int = 1) -> np.ndarray:
        """(C, *size) stored voxels in a box of the scan; voxels outside the scan are `preparation.outside`.

        `expected` is the number of consecutive crops of the scan that will be read, this one included. The array may be
        read-only.
        """
        return self._box("images", name, tuple(start), tuple(size), self.preparation.outside, expected)

    def label_crop(self, name: str, start: Iterable[int], size: Iterable[int], expected: int = 1) -> np.ndarray:
        """(*size) uint8 labels in a box, see `crop`; voxels outside the scan are background."""
        return self._box("labels", name, tuple(start), tuple(size), 0, expected)

    def _box(
        self, kind: str, name: str, start: tuple[int, ...], size: tuple[int, ...], fill: int, expected: int
    ) -> np.ndarray:
        shape = self.cases[name].shape
        low = [max(0, s) for s in start]
        high = [max(a, min(n, s + w)) for a, n, s, w in zip(low, shape, start, size, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        lead = (slice(None),) * (kind == "images")
        voxels = expected * prod(size) * (len(self.preparation.channels) if kind == "images" else 1)
        values: np.ndarray = self._read(kind, name, lambda file: file.box((*lead, *inside), voxels))
        if values.shape[-3:] == size:
            return values
        padded = np.full((*values.shape[:-3], *size), fill, dtype=values.dtype)
        target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        padded[(*lead, *target)] = values
        return padded

    def _read(self, kind: str, name: str, take: Callable[[CachedFile], Any]) -> Any:
        """Apply `take` to a file of the store; raises StoreError if it is missing or damaged."""
        file = self.path / kind / f"{name}.b2nd"
        try:
            cached = self._cache.get(file)
            shape: tuple[int, ...] = self.cases[name].shape
            dtype = "uint8"
            if kind == "images":
                shape = (len(self.preparation.channels), *shape)
                dtype = "int16" if self.preparation.intensity == "ct" else "float16"
            if cached.shape != shape or cached.dtype != dtype:
                raise ValueError(f"it holds {cached.shape} {cached.dtype}, but {shape} {dtype} in the index")
            return take(cached)
        except FileNotFoundError:
            raise StoreError(f"{file}: this file of the store is missing; run 'voxmim prepare' again.") from None
        except Exception as error:  # blosc2 raises many undocumented kinds
            self._cache.forget(file)
            raise StoreError(
                f"{file}: this file of the store is damaged ({error}); delete it and run 'voxmim prepare' again."
            ) from None

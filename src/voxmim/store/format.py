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
from voxmim.store.index import INDEX, Case, Index, Preparation
from voxmim.store.kept import KeptFile, KeptFiles

__all__ = ["INDEX", "SAMPLES", "Case", "Index", "Preparation", "Store"]

SAMPLES = 500  # voxels kept per label and case: enough that balanced crops do not repeat


class Store:
    """Read access to a store by its `path`, `index` and `cases` (by name); cheap to open and to send to a process."""

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
        self._kept = KeptFiles()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the files in memory behind when sent to another process, or copied for another thread."""
        return {**self.__dict__, "_kept": KeptFiles()}

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

    def in_fold(self, fold: str | None) -> Self:
        """The same store with the splits of one fold of a cross-validation (see `folded`); None changes nothing."""
        if fold is None:
            return self
        found = copy.copy(self)
        found.cases = {case.name: case for case in folded(self.index.cases, fold, self.seed, self.path)}
        return found

    def digest(self) -> str:
        """A short hash of all prepared voxels and their splits, kept with weights trained on them."""
        parts = sorted(f"{case.name}:{case.split}:{case.digest}" for case in self.index.cases)
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def image(self, name: str) -> np.ndarray:
        """(C, X, Y, Z) a prepared scan as stored: int16 HU or float16 z-scores."""
        return self._read("images", name, KeptFile.whole)

    def label_map(self, name: str) -> np.ndarray:
        """(X, Y, Z) uint8, a prepared label map."""
        return self._read("labels", name, KeptFile.whole)

    def samples(self, name: str) -> dict[int, np.ndarray]:
        """For each label present but `ignore`, (n, 3) voxel indices that carry it, n at most SAMPLES."""
        packed = self._read("labels", name, lambda kept: kept.meta["samples"])
        ignored = ignored_value(self.labels)
        return {int(value): np.asarray(rows).reshape(-1, 3) for value, rows in packed.items() if int(value) != ignored}

    def crop(self, name: str, start: Iterable[int], size: Iterable[int], expected: int = 1) -> np.ndarray:
        """(C, *size) a box of the scan as stored; where the box leaves the scan, voxels are `preparation.outside`.

        `expected` boxes of the scan, this one among them, will be asked for one after the other. The array may be
        read-only.
        """
        return self._box("images", name, tuple(start), tuple(size), self.preparation.outside, expected)

    def label_crop(self, name: str, start: Iterable[int], size: Iterable[int], expected: int = 1) -> np.ndarray:
        """(*size) uint8 a box of the label map, as `crop` has it; background where the box leaves the scan."""
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
        found = self._read(kind, name, lambda kept: kept.box((*lead, *inside), voxels))
        if found.shape[-3:] == size:
            return found
        box = np.full((*found.shape[:-3], *size), fill, dtype=found.dtype)
        place = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        box[(*lead, *place)] = found
        return box

    def _read(self, kind: str, name: str, take: Callable[[KeptFile], Any]) -> Any:
        """Apply `take` to a file of the store; raises StoreError where it is missing or damaged."""
        file = self.path / kind / f"{name}.b2nd"
        try:
            kept = self._kept.get(file)
            shape: tuple[int, ...] = self.cases[name].shape
            dtype = "uint8"
            if kind == "images":
                shape = (len(self.preparation.channels), *shape)
                dtype = "int16" if self.preparation.intensity == "ct" else "float16"
            if kept.shape != shape or kept.dtype != dtype:
                raise ValueError(f"it holds {kept.shape} {kept.dtype}, but {shape} {dtype} in the index")
            return take(kept)
        except FileNotFoundError:
            raise StoreError(f"{file}: this file of the store is missing; run 'voxmim prepare' again.") from None
        except Exception as error:  # blosc2 raises many kinds here, none of them documented
            self._kept.forget(file)
            raise StoreError(
                f"{file}: this file of the store is damaged ({error}); delete it and run 'voxmim prepare' again."
            ) from None

"""A store: a folder of prepared scans that random crops are read from quickly.

```
STORE/index.json          what was done to the scans, the label names, one entry per case
STORE/images/CASE.b2nd    (C, X, Y, Z) int16 HU for CT, float16 z-scores for MR
STORE/labels/CASE.b2nd    (X, Y, Z) uint8, with up to SAMPLES voxels of each label for balanced crops
```
A case's entry is written into its image file too, and the image file is put in place last: a store is therefore
always valid, whatever stopped its making, and its index can be made again from the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.errors import StoreError
from voxmim.findings import Finding

INDEX = "index.json"
SAMPLES = 500  # voxels kept per label and case: enough that balanced crops do not repeat
_OPEN_FILES = 64  # handles kept open per process; bounds memory whatever the number of scans
blosc2.set_nthreads(1)  # loaders run beside the training, one thread each


@dataclass(frozen=True)
class Preparation:
    """What is done to a scan before a network sees it, kept with store and weights.

    Attributes:
        spacing: voxel size in mm along X, Y, Z after resampling, in RAS+ orientation.
        intensity: ``ct`` (HU are kept, a window is applied at reading) or ``mr`` (z-score per scan).
        channels: the name of each channel.
        match_channels: whether channels of another grid are interpolated on that of the first.
        zero_background: whether a constant background of MR becomes 0, the value of padding and missing channels; what
            was written before this rule scaled it like tissue, and is read so.
    """

    spacing: tuple[float, float, float]
    intensity: str
    channels: tuple[str, ...]
    match_channels: bool = False
    zero_background: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """The inverse of ``dataclasses.asdict``, also after a way through JSON."""
        x, y, z = values["spacing"]
        return cls(
            (float(x), float(y), float(z)),
            str(values["intensity"]),
            tuple(values["channels"]),
            bool(values.get("match_channels", False)),
            bool(values.get("zero_background", False)),
        )


@dataclass(frozen=True)
class Case:
    """One prepared scan.

    Attributes:
        name: the case's name, unique in the store.
        split: ``train``, ``val``, ``test`` or ``unlabelled``.
        shape: prepared voxels along X, Y, Z.
        image: path of each source file, one per channel that is there (or one for all).
        label: path of the source label map, if there is one.
        counts: prepared voxels per label value.
        digest: of the prepared voxels and labels (see `digest_of`).
        missing: the index of each channel that the scan lacks; what stands for `outside` is stored there.
        group: the patient, who must not be torn apart by a split; where nothing told it, the case's own name.
        stamps: size and time of change of each source file when it was read, images first; empty in older stores.
        facts: what was seen when it was read, for its judgement beside others; None in the index and in older stores.
        findings: what was odd about its files by themselves; none in the index.
    """

    name: str
    split: str
    shape: tuple[int, int, int]
    image: tuple[str, ...]
    label: str | None = None
    counts: dict[int, int] = field(default_factory=dict)
    digest: str = ""
    missing: tuple[int, ...] = ()
    group: str = ""
    stamps: tuple[tuple[int, int], ...] = ()
    facts: Facts | None = None
    findings: tuple[Finding, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Case:
        """The inverse of ``dataclasses.asdict``, also after a way through JSON."""
        known = dict(values)
        known["shape"] = tuple(known["shape"])
        known["image"] = tuple(known["image"])
        known["missing"] = tuple(known.get("missing", ()))
        known["group"] = known.get("group") or known["name"]
        known["stamps"] = tuple((int(size), int(time)) for size, time in known.get("stamps", ()))
        known["counts"] = {int(label): int(count) for label, count in known["counts"].items()}
        known["facts"] = Facts.from_dict(known["facts"]) if known.get("facts") else None
        known["findings"] = tuple(map(Finding.from_dict, known.get("findings", ())))
        return cls(**known)


class Store:
    """Read access to a store; cheap to open and to send to worker processes.

    Attributes:
        path: the folder.
        name: the name of the data set.
        licence: what the data set says of its licence; empty where it says nothing.
        preparation: what was done to every scan.
        labels: name of each label value, background left out.
        regions: name of each region to the label values it is the union of; empty where labels are told apart.
        seed: of the split, where one was drawn.
        cases: the cases by name.
        findings: what was odd about the files that it was made of, left out or not.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a store.

        Raises:
            StoreError: the folder is missing, no store, or holds no case.
        """
        self.path = Path(path)
        index_file = self.path / INDEX
        if not index_file.is_file():
            raise StoreError(
                f"{self.path}: this is not a store (no {INDEX}); make one with 'voxmim prepare SOURCE STORE'."
            )
        try:
            index = json.loads(index_file.read_text())
            self.name: str = index["name"]
            self.licence = str(index.get("licence", ""))
            self.preparation = Preparation.from_dict(index["preparation"])
            self.labels = {int(value): str(name) for value, name in index["labels"].items()}
            self.regions = {str(name): tuple(values) for name, values in index.get("regions", {}).items()}
            self.seed = int(index["seed"])
            self.cases = {entry["name"]: Case.from_dict(entry) for entry in index["cases"]}
            self.findings = [Finding.from_dict(entry) for entry in index.get("findings", ())]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{index_file}: the index is damaged ({error!r}); run 'voxmim prepare' again.") from None
        if not self.cases:
            raise StoreError(f"{self.path}: the store holds no case; look at what 'voxmim prepare' reported.")
        self._open: OrderedDict[tuple[str, str], tuple[blosc2.NDArray, tuple[int, ...]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when sent to another process."""
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def unresolved(self) -> list[Finding]:
        """The findings that something is probably wrong which is used all the same."""
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
        """(C, X, Y, Z) a whole prepared scan as stored: int16 HU or float16 z-scores."""
        return self._read("images", name, lambda array: array[...])

    def label_map(self, name: str) -> np.ndarray:
        """(X, Y, Z) uint8, a whole prepared label map."""
        return self._read("labels", name, lambda array: array[...])

    def samples(self, name: str) -> dict[int, np.ndarray]:
        """For each label present, (n, 3) voxel indices that carry it, n at most SAMPLES."""
        packed = self._read("labels", name, lambda array: array.schunk.vlmeta["samples"])
        return {int(value): np.asarray(rows).reshape(-1, 3) for value, rows in packed.items()}

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
        """What `take` gives of an array.

        Raises:
            StoreError: its file is missing, cannot be unpacked, or holds another array than the index says.
        """
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
        """The open array, opened anew where its file is not the one that was opened: what is left of that is noise."""
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

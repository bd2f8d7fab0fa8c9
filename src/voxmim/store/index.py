"""The index of a store (index.json): how its scans were prepared, and one entry per case."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from voxmim.doctor.facts import Facts
from voxmim.errors import StoreError
from voxmim.files import write_json
from voxmim.findings import Finding
from voxmim.images.intensity import HU_RANGE
from voxmim.sources import SourceCase

INDEX = "index.json"


@contextmanager
def write_errors(file: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError of one sentence."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written ({error.strerror or error}); fix this and run again, finished cases are kept."
        ) from None


@dataclass(frozen=True)
class Preparation:
    """How scans are prepared; part of the index and of weights."""

    spacing: tuple[float, float, float]  # voxel size in mm along X, Y, Z after resampling, in RAS+ orientation
    intensity: str  # ``ct`` (HU are stored, a window is applied at reading) or ``mr`` (z-score per scan)
    channels: tuple[str, ...]  # names
    match_channels: bool = False  # whether channels with another grid are interpolated to that of the first
    # whether a constant background of MR becomes 0, as padding and missing channels; False in older files, in which it
    # is scaled like tissue
    zero_background: bool = True

    @property
    def outside(self) -> int:
        """The stored value of voxels outside the scan, and of missing channels: air for CT, 0 for MR."""
        return HU_RANGE[0] if self.intensity == "ct" else 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preparation":
        """The inverse of ``dataclasses.asdict``, also from JSON."""
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
    """One prepared scan."""

    name: str  # unique in the store
    split: str  # ``train``, ``val``, ``test`` or ``unlabelled``
    shape: tuple[int, int, int]  # prepared voxels along X, Y, Z
    image: tuple[str, ...]  # paths of the source files, one per present channel or one for all
    label: str | None = None  # path of the source label map, if there is one
    counts: dict[int, int] = field(default_factory=dict)  # prepared voxels per label value
    digest: str = ""  # of the prepared voxels and labels (see `digest_of`)
    missing: tuple[int, ...] = ()  # indices of missing channels, which are stored as `Preparation.outside`
    group: str = ""  # the patient, whose cases are all in one split; by default the name of the case
    # size and modification time of each source file when it was read, images first; empty in older stores
    stamps: tuple[tuple[int, int], ...] = ()
    # measured when it was read, to compare it with others; None in the index and in older stores
    facts: Facts | None = None
    findings: tuple[Finding, ...] = ()  # on its own files; none in the index
    annotated: tuple[int, ...] | None = None  # the label values that were annotated; None for all (`SourceCase`)

    def as_source(self) -> SourceCase:
        """The source case that it was prepared from."""
        label, images = None if self.label is None else Path(self.label), tuple(map(Path, self.image))
        return SourceCase(self.name, images, label, self.split, self.missing, self.group, self.annotated)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Case":
        """The inverse of ``dataclasses.asdict``, also from JSON."""
        known = dict(values)
        known["shape"] = tuple(known["shape"])
        known["image"] = tuple(known["image"])
        known["missing"] = tuple(known.get("missing", ()))
        known["group"] = known.get("group") or known["name"]
        known["stamps"] = tuple((int(size), int(time)) for size, time in known.get("stamps", ()))
        known["counts"] = {int(label): int(count) for label, count in known["counts"].items()}
        known["facts"] = Facts.from_dict(known["facts"]) if known.get("facts") else None
        known["findings"] = tuple(Finding(**one) for one in known.get("findings", ()))
        known["annotated"] = None if known.get("annotated") is None else tuple(known["annotated"])
        return cls(**known)


@dataclass(frozen=True)
class Index:
    """The content of index.json."""

    name: str  # of the data set
    preparation: Preparation
    labels: Mapping[int, str]  # name of each label value, without background
    cases: Sequence[Case]
    seed: int = 0  # of a random split
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # label values by name; may be empty
    licence: str = ""  # the data set's note on its licence
    resplit: bool = False  # whether the splits were set by `voxmim split`, and replace those of the sources
    findings: Sequence[Finding] = ()  # on all source files, used or left out

    @classmethod
    def read(cls, path: Path) -> "Index | None":
        """Read the index of a store; None if there is none; raises StoreError if it is damaged."""
        file = path / INDEX
        try:
            values = json.loads(file.read_text())
            return cls(
                name=values["name"],
                preparation=Preparation.from_dict(values["preparation"]),
                labels={int(value): str(name) for value, name in values["labels"].items()},
                cases=[Case.from_dict(entry) for entry in values["cases"]],
                seed=int(values["seed"]),
                regions={str(name): tuple(region) for name, region in values.get("regions", {}).items()},
                licence=str(values.get("licence", "")),
                resplit=bool(values.get("resplit", False)),
                findings=[Finding(**entry) for entry in values.get("findings", ())],
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{file}: the index is damaged ({error!r}); delete it and run 'voxmim prepare' again."
            ) from None

    def write(self, path: Path) -> None:
        """Write the index without facts and findings of single cases, which are in the image files.

        Raises StoreError if it cannot be written.
        """
        cases = [replace(case, facts=None, findings=()) for case in sorted(self.cases, key=lambda case: case.name)]
        values = {"format": 1, **asdict(replace(self, cases=cases))}
        with write_errors(path / INDEX):
            write_json(path / INDEX, values)

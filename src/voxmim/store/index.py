"""What index.json of a store says: how its scans were prepared, and one entry per case."""

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
    """Turn what keeps a file from being written into one sentence."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written ({error.strerror or error}); fix this and run again, finished cases are kept."
        ) from None


@dataclass(frozen=True)
class Preparation:
    """What is done to a scan before a network sees it, kept with store and weights."""

    spacing: tuple[float, float, float]  # voxel size in mm along X, Y, Z after resampling, in RAS+ orientation
    intensity: str  # ``ct`` (HU are kept, a window is applied at reading) or ``mr`` (z-score per scan)
    channels: tuple[str, ...]  # the name of each channel
    match_channels: bool = False  # whether channels of another grid are interpolated on that of the first
    # whether a constant background of MR becomes 0, the value of padding and missing channels; what was written before
    # this rule scaled it like tissue, and is read so
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

    name: str  # the case's name, unique in the store
    split: str  # ``train``, ``val``, ``test`` or ``unlabelled``
    shape: tuple[int, int, int]  # prepared voxels along X, Y, Z
    image: tuple[str, ...]  # path of each source file, one per channel that is there (or one for all)
    label: str | None = None  # path of the source label map, if there is one
    counts: dict[int, int] = field(default_factory=dict)  # prepared voxels per label value
    digest: str = ""  # of the prepared voxels and labels (see `digest_of`)
    missing: tuple[
        int, ...
    ] = ()  # the index of each channel that the scan lacks; it is stored as `Preparation.outside`
    group: str = ""  # the patient, whose cases all go into one split; the case's own name where the source does not say
    # size and modification time of each source file when it was read, images first; empty in older stores
    stamps: tuple[tuple[int, int], ...] = ()
    # what was measured when it was read, to compare it with others; None in the index and in older stores
    facts: Facts | None = None
    findings: tuple[Finding, ...] = ()  # what is odd about its own files; none in the index
    annotated: tuple[int, ...] | None = None  # the label values that were annotated; None where all were (`SourceCase`)

    def as_source(self) -> SourceCase:
        """The case of the files that it was made of."""
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
    """What index.json holds."""

    name: str  # the name of the data set
    preparation: Preparation  # what was done to every scan
    labels: Mapping[int, str]  # name of each label value, background left out
    cases: Sequence[Case]  # one entry each
    seed: int = 0  # of the split, where one was drawn
    # name of each region to the label values it is the union of; empty where labels exclude each other
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str = ""  # the data set's own note on its licence; empty where it has none
    resplit: bool = False  # whether the splits are the store's own, whatever those of its sources are
    findings: Sequence[Finding] = ()  # what is odd about the files that it was made of, left out or not

    @classmethod
    def read(cls, path: Path) -> "Index | None":
        """The index of the store in a folder; None where there is none; raises StoreError where it is damaged."""
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
        """Write the index of the store at `path`; the facts and findings of single cases stay in their image files.

        Raises StoreError where it cannot be written.
        """
        cases = [replace(case, facts=None, findings=()) for case in sorted(self.cases, key=lambda case: case.name)]
        values = {"format": 1, **asdict(replace(self, cases=cases))}
        with write_errors(path / INDEX):
            write_json(path / INDEX, values)

"""Sources and their cases: files, labels and splits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxmim.errors import SourceError, nearest
from voxmim.findings import Finding

SPLITS = ("train", "val", "test", "unlabelled")
IGNORE = "ignore"  # the name of the label of voxels that nobody annotated, as in nnU-Net


@dataclass(frozen=True)
class SourceCase:
    """One case on disk."""

    name: str  # unique in the source
    images: tuple[Path, ...]  # one file per present channel, or one file of all channels
    label: Path | None  # the label map, if there is one
    split: str = ""  # ``train``, ``val``, ``test`` or ``unlabelled``; empty until it is known
    missing: tuple[int, ...] = ()  # indices of missing channels
    group: str = ""  # the patient, whose cases are all in one split; `open_source` defaults it to the case's name
    # the label values that were annotated, or None for all; background may be any label that was not
    annotated: tuple[int, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images, then its label map."""
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True)
class Source:
    """Scans on disk."""

    path: Path  # the folder or list
    name: str  # of the data set
    channels: tuple[str, ...]  # names
    labels: dict[int, str]  # name of each label value, without background; empty if unknown
    cases: tuple[SourceCase, ...]  # sorted by name
    seed: int = 0  # of a random split
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)  # label values by name; regions may overlap
    licence: str = ""  # the data set's note on its licence
    findings: tuple[Finding, ...] = ()  # on files that were left out or repaired


def ignored_value(labels: Mapping[int, str]) -> int | None:
    """The label value of voxels that nobody annotated, if there is one."""
    return next((value for value, name in labels.items() if name.casefold() == IGNORE), None)


def annotated_values(named: Iterable[object], labels: Mapping[int, str], where: str) -> tuple[int, ...]:
    """The values of labels given by name or value.

    Raises SourceError, which begins with `where`, if there is no such label.
    """
    value_of = {name.casefold(): value for value, name in labels.items()} | {str(value): value for value in labels}
    values = set()
    for each in map(str, named):
        value = value_of.get(each.strip().casefold(), int(each) if each.strip().isdigit() and not labels else None)
        if value is None or not 0 < value <= 255:
            known = ", ".join(labels.values()) or "none is named, so give values from 1 to 255"
            hint = nearest(each, labels.values()) or "."
            raise SourceError(f"{where}: '{each}' is none of the labels ({known}){hint}")
        values.add(value)
    return tuple(sorted(values))

"""What a source is: its cases, where their files lie, and what is known of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxmim.errors import SourceError, nearest
from voxmim.findings import Finding

SPLITS = ("train", "val", "test", "unlabelled")
IGNORE = "ignore"  # the name of the label of voxels that nobody annotated, as nnU-Net has it


@dataclass(frozen=True)
class SourceCase:
    """One case on disk."""

    name: str  # unique in the source
    images: tuple[Path, ...]  # one file per channel that is there, or one file of all channels
    label: Path | None  # the label map, if there is one
    split: str = ""  # ``train``, ``val``, ``test`` or ``unlabelled``; empty until it is known
    missing: tuple[int, ...] = ()  # the index of each channel that the case lacks
    # the patient, or whatever else must not be torn apart by a split; where nothing says so, `open_source` makes it the
    # case's own name
    group: str = ""
    # the label values that were annotated; what the label map shows as background may be any of the others. None where
    # all were
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
    channels: tuple[str, ...]  # the name of each channel
    labels: dict[int, str]  # name of each label value, background left out; empty if the source does not say
    cases: tuple[SourceCase, ...]  # sorted by name
    seed: int = 0  # of the split, where one was drawn
    # name of each region to the label values it is the union of, in the source's order; regions may overlap. Empty
    # where there are none.
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str = ""  # what the data set says of its licence; empty if it says nothing
    findings: tuple[Finding, ...] = ()  # what was repaired or left out while looking for scans


def ignored_value(labels: Mapping[int, str]) -> int | None:
    """The label value of voxels that nobody annotated, if there is one."""
    return next((value for value, name in labels.items() if name.casefold() == IGNORE), None)


def annotated_values(named: Iterable[object], labels: Mapping[int, str], where: str) -> tuple[int, ...]:
    """The values of labels given by name, or by value where the data set's `labels` have no names.

    Raises SourceError, which names the place `where` they stand, if there is no such label.
    """
    values = {name.casefold(): value for value, name in labels.items()} | {str(value): value for value in labels}
    found = []
    for each in map(str, named):
        value = values.get(each.strip().casefold(), int(each) if each.strip().isdigit() and not labels else None)
        if value is None or not 0 < value <= 255:
            known = ", ".join(labels.values()) or "none is named, so give values from 1 to 255"
            hint = nearest(each, labels.values()) or "."
            raise SourceError(f"{where}: '{each}' is none of the labels ({known}){hint}")
        found.append(value)
    return tuple(sorted(set(found)))

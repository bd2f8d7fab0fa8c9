"""What a source is: its cases, where their files lie, and what is known of them."""

from dataclasses import dataclass, field
from pathlib import Path

from voxmim.findings import Finding

SPLITS = ("train", "val", "test", "unlabelled")


@dataclass(frozen=True)
class SourceCase:
    """One case on disk.

    Attributes:
        name: unique in the source.
        images: one file per channel that is there, or one file of all channels.
        label: the label map, if there is one.
        split: ``train``, ``val``, ``test`` or ``unlabelled``; empty until it is known.
        missing: the index of each channel that the case lacks.
        group: the patient, or whatever else must not be torn apart by a split; where nothing says so, `open_source`
            makes it the case's own name.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    split: str = ""
    missing: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Source:
    """Scans on disk.

    Attributes:
        path: the folder or list.
        name: of the data set.
        channels: the name of each channel.
        labels: name of each label value, background left out; empty where the source does not say.
        cases: sorted by name.
        seed: of the split, where one was drawn.
        regions: name of each region to the label values it is the union of, in the source's order; regions may
            overlap. Empty where there are none.
        licence: what the data set says of its licence; empty where it says nothing.
        findings: what was repaired or left out while looking for scans.
    """

    path: Path
    name: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[SourceCase, ...]
    seed: int = 0
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str = ""
    findings: tuple[Finding, ...] = ()

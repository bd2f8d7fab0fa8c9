"""What the viewer shows: a list of items, each with panels of layers that are read when they are looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxmim.findings import Finding
from voxmim.images.grid import Volume


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume of a panel: an image, of which one is shown at a time, or an error map or labels, laid over it."""

    name: str  # what the page calls it
    kind: Literal["image", "error", "labels"]
    read: Callable[[], Volume]  # gives the volume, (1, X, Y, Z) with its affine
    legend: Mapping[int, str] = field(default_factory=dict)  # name of each label value
    shown: bool = False  # whether the page shows it at first


@dataclass(frozen=True)
class Panel:
    """Layers that lie on each other; panels of one item stand side by side with linked crosshairs."""

    title: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Item:
    """One entry of the list, such as a case."""

    name: str  # unique in the collection
    panels: tuple[Panel, ...]  # at least one
    group: str = ""  # such as the split
    files: tuple[str, ...] = ()  # that findings may be about


@dataclass
class Collection:
    """Everything that one `voxmim view` shows."""

    kind: Literal["run", "study", "store", "folder", "scan"]
    title: str
    items: list[Item]  # at least one
    page: Path | None = None  # to link to, such as a run's report; files beside it are served too
    curves: Callable[[], bytes | None] = lambda: None  # the learning curves as PNG, or None if there are none yet
    live: Callable[[], bool] = lambda: False  # whether a training is still writing
    findings: list[Finding] = field(default_factory=list)  # filled while the files are checked
    checking: str = ""  # how far the check of the files is, such as 12 of 40; empty when it is done

"""The content of the viewer: a list of items, each with panels of layers that are read when they are shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxmim.findings import Finding
from voxmim.images.grid import Volume


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume of a panel: an image, of which one is shown at a time, or an overlay of errors or labels."""

    name: str
    kind: Literal["image", "error", "labels"]
    read: Callable[[], Volume]  # returns the volume, (1, X, Y, Z) with its affine
    legend: Mapping[int, str] = field(default_factory=dict)  # name of each label value
    shown: bool = False  # at first


@dataclass(frozen=True)
class Panel:
    """Layers on top of each other; panels of one item are side by side with linked crosshairs."""

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
    """The content of one page."""

    kind: Literal["run", "study", "store", "folder", "scan"]
    title: str
    items: list[Item]  # at least one
    page: Path | None = None  # to link to, such as a run's report; files beside it are served too
    curves: Callable[[], bytes | None] = lambda: None  # the learning curves as PNG, or None if there are none yet
    live: Callable[[], bool] = lambda: False  # whether a training is running
    findings: list[Finding] = field(default_factory=list)  # extended while the files are checked
    checking: str = ""  # progress of the check of the files, such as 12 of 40; empty when it is done

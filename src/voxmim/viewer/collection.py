"""What the viewer shows: a list of items, each with panels of layers that are read when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxmim.findings import Finding
from voxmim.images.grid import Volume

Kind = Literal["image", "error", "labels"]


@dataclass(frozen=True)
class Layer:
    """One volume of a panel.

    Attributes:
        name: what the page calls it.
        kind: an ``image``, of which one is shown at a time; an ``error`` map or ``labels``, laid over it.
        read: gives the volume, (1, X, Y, Z) with its affine.
        legend: name of each label value.
        shown: whether the page shows it at first.
    """

    name: str
    kind: Kind
    read: Callable[[], Volume]
    legend: Mapping[int, str] = field(default_factory=dict)
    shown: bool = False


@dataclass(frozen=True)
class Panel:
    """Layers that lie on each other; panels of one item stand side by side with linked crosshairs."""

    title: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Item:
    """One entry of the list, such as a case.

    Attributes:
        name: unique in the collection.
        panels: at least one.
        group: such as the split.
        files: the files that findings may be about.
    """

    name: str
    panels: tuple[Panel, ...]
    group: str = ""
    files: tuple[str, ...] = ()


@dataclass
class Collection:
    """Everything that one `voxmim view` shows.

    Attributes:
        kind: ``run``, ``study``, ``store``, ``folder`` or ``scan``.
        title: of the page.
        items: at least one.
        page: an HTML page to link to, such as a run's report; files beside it are served too.
        curves: gives the learning curves as PNG, or None where there are none yet.
        live: whether a training is still writing.
        findings: what is wrong with which file; filled while the files are checked.
        checking: what the check of the files has done so far, such as ``12 of 40``; empty when it is done.
    """

    kind: Literal["run", "study", "store", "folder", "scan"]
    title: str
    items: list[Item]
    page: Path | None = None
    curves: Callable[[], bytes | None] = lambda: None
    live: Callable[[], bool] = lambda: False
    findings: list[Finding] = field(default_factory=list)
    checking: str = ""

    def findings_of(self, item: Item) -> list[Finding]:
        """The findings about the files of an item."""
        return [finding for finding in self.findings if finding.file in item.files]

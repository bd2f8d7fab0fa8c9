"""What a layout is, what it gets and what it gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from voxmim.networks.patches import Triple

USUAL_CROP: Triple = (96, 96, 96)  # where neither the weights nor the user say it


@dataclass(frozen=True)
class Checkpoint:
    """A group of tensors of another package.

    Attributes:
        tensors: by name; those of the encoder begin with `prefix`.
        config: what else the file holds, such as its training's plans.
        prefix: of the names.
        folder: of the file, where JSON files may say more.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    folder: Path | None = None

    def inner(self) -> dict[str, str]:
        """The names under the prefix, without it and whole."""
        return {name.removeprefix(self.prefix): name for name in self.tensors if name.startswith(self.prefix)}

    def __getitem__(self, inner: str) -> Tensor:
        return self.tensors[self.prefix + inner]


class Request(NamedTuple):
    """What a user says of weights that do not say it themselves.

    Attributes:
        channels: how many the scans have; None takes those of the weights.
        patch: voxels of a patch along X, Y, Z.
        crop: voxels of a crop along X, Y, Z.
        heads: of a ViT's attention.
        axes: orientation codes of the volumes that convolutions were trained on; voxmim's are RAS.
        intensity: ``ct`` or ``mr``; None takes that of the weights.
        window: HU that become 0 and 1; None takes that of the weights.
    """

    channels: int | None = None
    patch: Triple | None = None
    crop: Triple | None = None
    heads: int | None = None
    axes: str = "RAS"
    intensity: str | None = None
    window: tuple[float, float] | None = None


@dataclass
class Imported:
    """An encoder of another package in our terms.

    Attributes:
        encoder: the kind of our encoder, such as ``vit``.
        settings: of that encoder.
        crop: voxels along X, Y, Z that it was trained on.
        tensors: under our names.
        names: the foreign name of each tensor; one that was made up, such as a bias of zero, has none.
        changes: how each tensor that is not a plain copy came about.
        unused: foreign names that our encoder has no place for.
        scans: what the checkpoint says of its scans: any of spacing, intensity, channels and window.
        about: where the weights come from: any of source and citation.
        warnings: one sentence each.
    """

    encoder: str
    settings: dict[str, Any]
    crop: Triple
    tensors: dict[str, Tensor]
    names: dict[str, str]
    changes: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    scans: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Layout(NamedTuple):
    """One naming of tensors.

    Attributes:
        title: what has it.
        marks: patterns of names that only this layout has, all under one prefix.
        convert: from a checkpoint of this layout to our encoder; raises ValueError where that is impossible.
        axes: of the first mark's tensor; None for any number.
    """

    title: str
    marks: tuple[str, ...]
    convert: Callable[[Checkpoint, Request], Imported]
    axes: int | None = None

    def find(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The shortest prefix under which all marks stand, or None."""
        first, *others = self.marks
        matches = {match[1]: name for name in tensors if (match := re.fullmatch(rf"((?:.*\.)?){first}", name))}
        for prefix in sorted(matches, key=len):
            fits = self.axes in (None, tensors[matches[prefix]].dim())
            if fits and all(any(re.fullmatch(re.escape(prefix) + mark, name) for name in tensors) for mark in others):
                return prefix
        return None


def count(names: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers the first group of a pattern matches among names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def mlp_ratio(weight: Tensor) -> float:
    """The hidden width of an MLP over its width, so that ``int(width * ratio)`` is the hidden width again."""
    hidden, width = weight.shape
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def cube(number: int, what: str, setting: str) -> Triple:
    """The sides of a cube of so many.

    Raises:
        ValueError: it is no cube; `setting` would say more.
    """
    side = round(number ** (1 / 3))
    if side**3 != number:
        raise ValueError(f"{number} {what} are not those of a cube; give --set {setting}")
    return side, side, side


def grid_of_crop(crop: Triple, patch: Sequence[int]) -> Triple:
    """Patches of a crop along X, Y, Z.

    Raises:
        ValueError: the crop is not a multiple of the patch.
    """
    if len(patch) != 3 or any(c < p or c % p for c, p in zip(crop, patch, strict=True)):
        raise ValueError(f"the crop {crop} is not a multiple of the patch {tuple(patch)}; give --set crop")
    return crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2]


def check_channels(known: int, request: Request) -> None:
    """Refuse weights for another number of channels.

    Raises:
        ValueError: names both numbers.
    """
    if request.channels not in (None, known):
        raise ValueError(f"the weights are for {known} channels, not {request.channels}")

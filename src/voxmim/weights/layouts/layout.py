"""What a layout is, what it gets and what it gives."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from voxmim.networks.patches import Triple

USUAL_CROP: Triple = (96, 96, 96)  # where neither the weights nor the user say it


@dataclass(frozen=True)
class Checkpoint:
    """A group of tensors of another package."""

    tensors: Mapping[str, Tensor]  # by name; those of the encoder begin with `prefix`
    config: Mapping[str, Any] = field(default_factory=dict)  # what else the file holds, such as its training's plans
    prefix: str = ""
    folder: Path | None = None  # of the file, where JSON files may say more

    def inner(self) -> dict[str, str]:
        """The names under the prefix, without it and whole."""
        return {name.removeprefix(self.prefix): name for name in self.tensors if name.startswith(self.prefix)}

    def __getitem__(self, inner: str) -> Tensor:
        return self.tensors[self.prefix + inner]


class Request(NamedTuple):
    """What a user says of weights that do not say it themselves; None takes what the weights say."""

    channels: int | None = None  # how many the scans have
    patch: Triple | None = None  # voxels of a patch along X, Y, Z
    crop: Triple | None = None  # voxels of a crop along X, Y, Z
    heads: int | None = None  # of a ViT's attention
    axes: str = "RAS"  # orientation codes of the volumes that convolutions were trained on; voxmim's are RAS
    intensity: str | None = None  # ct or mr
    window: tuple[float, float] | None = None  # HU that become 0 and 1


@dataclass
class Imported:
    """An encoder of another package in our terms."""

    encoder: str  # the kind of our encoder, such as vit
    settings: dict[str, Any]  # of that encoder
    crop: Triple  # voxels along X, Y, Z that it was trained on
    tensors: dict[str, Tensor]  # under our names
    names: dict[str, str]  # the foreign name of each tensor; one that was made up, such as a bias of zero, has none
    changes: dict[str, str] = field(default_factory=dict)  # how each tensor that is not a plain copy came about
    used: set[str] = field(default_factory=set)  # foreign names of tensors that are part of others, or there twice
    unused: list[str] = field(default_factory=list)  # other foreign names, as `convert` finds them
    scans: dict[str, Any] = field(default_factory=dict)  # any of spacing, intensity, channels and window
    about: dict[str, str] = field(default_factory=dict)  # any of source and citation
    warnings: list[str] = field(default_factory=list)  # one sentence each

    def add_zero_biases(self, weights: Iterable[str]) -> None:
        """Biases of zero for those of the weights that have none."""
        for weight in weights:
            bias = weight.replace("weight", "bias")
            if bias not in self.tensors:
                self.tensors[bias] = self.tensors[weight].new_zeros(len(self.tensors[weight]))
                self.changes[bias] = "zero, as the file has none"


class Layout(NamedTuple):
    """One naming of tensors."""

    title: str  # what has it
    marks: tuple[str, ...]  # patterns of names that only this layout has, all under one prefix
    convert: Callable[[Checkpoint, Request], Imported]  # raises ValueError where that is impossible
    axes: int | None = None  # of the first mark's tensor; None for any number

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


def scale_layer(tensors: dict[str, Tensor], layer: str, gamma: Tensor) -> None:
    """Multiply the outputs of a linear layer, as LayerScale (arXiv 2103.17239) does behind it."""
    tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * gamma[:, None]
    tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * gamma


def cube(number: int, what: str, setting: str) -> Triple:
    """The sides of a cube of so many; a ValueError names the setting that would say more where it is none."""
    side = round(number ** (1 / 3))
    if side**3 != number:
        raise ValueError(f"{number} {what} are not those of a cube; give --set {setting}")
    return side, side, side


def grid_of_positions(number: int, crop: Triple | None, patch: Sequence[int]) -> Triple:
    """The grid along X, Y, Z of so many learned positions, of the crop or a cube; a ValueError if it is neither."""
    grid = grid_of_crop(crop, patch) if crop else cube(number, "positions", "crop")
    if math.prod(grid) != number:
        raise ValueError(f"{number} positions are not those of a grid of {grid}; give --set crop")
    return grid


def grid_of_crop(crop: Triple, patch: Sequence[int]) -> Triple:
    """Patches of a crop along X, Y, Z; a ValueError if it is not a multiple of the patch."""
    if len(patch) != 3 or any(c < p or c % p for c, p in zip(crop, patch, strict=True)):
        raise ValueError(f"the crop {crop} is not a multiple of the patch {tuple(patch)}; give --set crop")
    return crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2]


def check_channels(known: int, request: Request) -> None:
    """Refuse weights for another number of channels by a ValueError."""
    if request.channels not in (None, known):
        raise ValueError(f"the weights are for {known} channels, not {request.channels}")

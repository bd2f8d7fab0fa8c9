"""The definition of a layout, its inputs and its result."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.text import counted

USUAL_CROP: Triple = (96, 96, 96)  # if neither the weights nor the user specify it


@dataclass(frozen=True)
class Checkpoint:
    """A group of tensors of another package."""

    tensors: Mapping[str, Tensor]  # by name; those of the encoder begin with `prefix`
    config: Mapping[str, Any] = field(default_factory=dict)  # the other content of the file, such as nnU-Net's plans
    prefix: str = ""
    folder: Path | None = None  # of the file, which may have JSON files with more information

    def inner(self) -> dict[str, str]:
        """The names under the prefix: without it, and in full."""
        return {name.removeprefix(self.prefix): name for name in self.tensors if name.startswith(self.prefix)}

    def __getitem__(self, inner: str) -> Tensor:
        return self.tensors[self.prefix + inner]


class Request(NamedTuple):
    """Properties of the weights that the user specifies; None if the weights determine them."""

    channels: int | None = None  # number of channels of the scans
    patch: Triple | None = None  # voxels of a patch along X, Y, Z
    crop: Triple | None = None  # voxels of a crop along X, Y, Z
    heads: int | None = None  # of a ViT's attention
    axes: str = "RAS"  # orientation codes of the volumes that convolutions were trained on; voxmim's are RAS
    intensity: str | None = None  # ct or mr
    window: tuple[float, float] | None = None  # HU that become 0 and 1


@dataclass
class Imported:
    """An encoder that was converted from another package."""

    encoder: str  # the kind of our encoder, such as vit
    settings: dict[str, Any]  # of that encoder
    crop: Triple  # voxels along X, Y, Z that it was trained on
    tensors: dict[str, Tensor]  # under our names
    names: dict[str, str]  # the foreign name of each tensor, except of new ones, such as biases of zero
    changes: dict[str, str] = field(default_factory=dict)  # description of the change of each tensor that is no copy
    used: set[str] = field(default_factory=set)  # foreign names of tensors that are part of others, or duplicates
    unused: list[str] = field(default_factory=list)  # all other foreign names; set by `convert`
    scans: dict[str, Any] = field(default_factory=dict)  # any of spacing, intensity, channels and window
    about: dict[str, str] = field(default_factory=dict)  # any of source and citation
    warnings: list[str] = field(default_factory=list)  # one sentence each

    def add_zero_biases(self, weights: Iterable[str]) -> None:
        """Add biases of zero for those of the weights that have none."""
        for weight in weights:
            bias = weight.replace("weight", "bias")
            if bias not in self.tensors:
                self.tensors[bias] = self.tensors[weight].new_zeros(len(self.tensors[weight]))
                self.changes[bias] = "zero, as the file has none"


class Layout(NamedTuple):
    """One naming of tensors."""

    title: str  # the networks that have it
    marks: tuple[str, ...]  # patterns of names that only this layout has, all under one prefix
    convert: Callable[[Checkpoint, Request], Imported]  # raises ValueError if that is impossible
    axes: int | None = None  # number of axes of the first mark's tensor; None for any

    def find(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The shortest prefix under which all marks are found, or None."""
        first, *others = self.marks
        matches = {match[1]: name for name in tensors if (match := re.fullmatch(rf"((?:.*\.)?){first}", name))}
        for prefix in sorted(matches, key=len):
            fits = self.axes in (None, tensors[matches[prefix]].dim())
            if fits and all(any(re.fullmatch(re.escape(prefix) + mark, name) for name in tensors) for mark in others):
                return prefix
        return None


def count(names: Mapping[str, Any], pattern: str) -> int:
    """The number of different matches of a pattern's first group among names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def mlp_ratio(weight: Tensor) -> float:
    """The ratio of an MLP's hidden width to its width, such that ``int(width * ratio)`` is the hidden width."""
    hidden, width = weight.shape
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def scale_layer(tensors: dict[str, Tensor], layer: str, gamma: Tensor) -> None:
    """Multiply the outputs of a linear layer by `gamma`, to replace a LayerScale (arXiv 2103.17239) after it."""
    tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * gamma[:, None]
    tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * gamma


def cube(number: int, what: str, setting: str) -> Triple:
    """The sides of a cube with this number of elements; raises ValueError that names a setting if it is not a cube."""
    side = round(number ** (1 / 3))
    if side**3 != number:
        raise ValueError(f"{number} {what} are not those of a cube; give --set {setting}")
    return side, side, side


def grid_of_positions(number: int, crop: Triple | None, patch: Sequence[int]) -> Triple:
    """The grid along X, Y, Z of learned positions: that of the crop, or a cube; raises ValueError if it is neither."""
    grid = grid_of_crop(crop, patch) if crop else cube(number, "positions", "crop")
    if math.prod(grid) != number:
        raise ValueError(f"{number} positions are not those of a grid of {grid}; give --set crop")
    return grid


def grid_of_crop(crop: Triple, patch: Sequence[int]) -> Triple:
    """Patches of a crop along X, Y, Z; raises ValueError if the crop is not a multiple of the patch."""
    if len(patch) != 3 or any(c < p or c % p for c, p in zip(crop, patch, strict=True)):
        raise ValueError(f"the crop {crop} is not a multiple of the patch {tuple(patch)}; give --set crop")
    return crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2]


def check_channels(channels: int, request: Request) -> None:
    """Raise ValueError if weights for this number of channels do not fit the request."""
    if request.channels not in (None, channels):
        raise ValueError(f"the weights are for {counted(channels, 'channel')}, not {request.channels}")

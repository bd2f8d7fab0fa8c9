"""Weights of one encoder made to fit another of its kind, which has another patch, other channels or another grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.networks.build import described_encoder, described_inputs
from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions

EMBEDDINGS = ("embed.weight", "swin.patch_embed.proj.weight")  # of a ViT, linear, and of a Swin, a convolution
CONVOLUTIONS = ("stages.0.0.conv1.conv.weight", "stages.0.0.conv3.conv.weight")  # what a U-Net sees the scan with
POSITIONS = "positions"


@dataclass(frozen=True)
class Layout:
    """What an encoder takes in.

    Attributes:
        channels: the name of each channel of the scans.
        patch: voxels of a patch along X, Y, Z.
        grid: patches of a crop along X, Y, Z; only learned positions depend on it.
    """

    channels: tuple[str, ...]
    patch: Triple
    grid: Triple

    @classmethod
    def of(cls, channels: Sequence[str], patch: Triple, crop: Triple) -> Layout:
        """The layout of crops of (X, Y, Z) voxels, a multiple of the patch."""
        x, y, z = (c // p for c, p in zip(crop, patch, strict=True))
        return cls(tuple(channels), patch, (x, y, z))


def described_layout(metadata: Mapping[str, Any]) -> Layout:
    """What the encoder that a weights file describes takes in: channels, patch, and the grid of its crop."""
    _, settings = described_encoder(metadata)
    x, y, z = metadata["crop"]
    return Layout.of(described_inputs(metadata), settings.patch, (x, y, z))


def adapt(state: Mapping[str, Tensor], old: Layout, new: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Make the weights of an encoder fit another layout; a U-Net's have no patch that could change.

    Args:
        state: the encoder's tensors, under its own names.
        old: the layout that they were made for.
        new: the wanted one.

    Returns:
        the tensors, and for each that was changed in what way. With the same layout nothing is changed.

    Raises:
        ValueError: a tensor is not of the old layout.
    """
    tensors, changes = dict(state), {}
    sources = channel_sources(old.channels, new.channels)
    same_channels = sources == list(range(len(old.channels)))
    channels = "" if same_channels else _channels_in_words(old.channels, new.channels, sources)
    for name in EMBEDDINGS:
        if name in state and (old.patch != new.patch or not same_channels):
            kernel = pick_channels(resize_patch(_as_kernel(state[name], old), new.patch), sources)
            tensors[name] = kernel if state[name].dim() == 5 else kernel.flatten(1)
            patch = f"patch {old.patch} to {new.patch}" if old.patch != new.patch else ""
            changes[name] = ", ".join(filter(None, (patch, channels)))
    for name in CONVOLUTIONS:
        if name in state and not same_channels:
            if state[name].shape[1] != len(old.channels):
                raise ValueError(
                    f"{name} of shape {tuple(state[name].shape)} is not one of {len(old.channels)} channels"
                )
            tensors[name], changes[name] = pick_channels(state[name], sources), channels
    if POSITIONS in state and old.grid != new.grid:
        table, (x, y, z) = state[POSITIONS], old.grid
        if len(table) != x * y * z:
            raise ValueError(f"{len(table)} learned positions are not those of a grid of {old.grid}")
        tensors[POSITIONS] = resize_positions(table, old.grid, new.grid)
        changes[POSITIONS] = f"grid {old.grid} to {new.grid}"
    return tensors, changes


def resize_patch(kernel: Tensor, patch: Triple) -> Tensor:
    """Resize (width, C, px, py, pz) to another patch by the pseudo-inverse of linear interpolation (arXiv 2212.08013).

    Of two patches, one the trilinear enlargement of the other, both have the same embedding: the larger by the larger
    kernel, the smaller by the smaller one. To enlarge a kernel and then to shrink it again changes nothing.
    """
    for axis, size in enumerate(patch, start=2):
        if size != kernel.shape[axis]:
            matrix = _resizing(kernel.shape[axis], size).to(kernel.device)
            resized = torch.tensordot(kernel.double(), matrix, dims=([axis], [1])).movedim(-1, axis)
            kernel = resized.to(kernel.dtype)
    return kernel


def resize_channels(kernel: Tensor, channels: int) -> Tensor:
    """Give (width, C, px, py, pz) another number of channels: each gets the mean of the old ones.

    The kernel is scaled so that a patch that is the same in every channel keeps its embedding.
    """
    old = kernel.shape[1]
    if old == channels:
        return kernel
    return (kernel.mean(1, keepdim=True) * (old / channels)).repeat(1, channels, 1, 1, 1)


def channel_sources(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """For each new channel the old one of its name, whatever the case of the letters; None where there is none.

    One channel alone takes the place of another, whatever they are called.
    """
    if tuple(old) == tuple(new) or len(old) == len(new) == 1:
        return list(range(len(old)))
    index = {name.casefold(): place for place, name in enumerate(old)}
    return [index.get(name.casefold()) for name in new]


def pick_channels(kernel: Tensor, sources: Sequence[int | None]) -> Tensor:
    """Give (width, C, px, py, pz) other channels: each takes the kernel of its source, or the mean where it has none.

    The kernel is scaled as in `resize_channels`, by the old number of channels over the new one.
    """
    mean = kernel.mean(1)
    picked = torch.stack([mean if source is None else kernel[:, source] for source in sources], dim=1)
    return picked * (kernel.shape[1] / len(sources))


def _as_kernel(weight: Tensor, layout: Layout) -> Tensor:
    """(width, C, px, py, pz) of a linear embedding's weight in `patchify`'s order, or of a kernel."""
    shape = (len(layout.channels), *layout.patch)
    if weight[0].numel() != torch.Size(shape).numel() or (weight.dim() == 5 and weight.shape[1:] != shape):
        raise ValueError(
            f"an embedding of shape {tuple(weight.shape)} is not one of {len(layout.channels)} channels in patches of "
            f"{layout.patch}"
        )
    return weight.reshape(-1, *shape)


def _resizing(old: int, new: int) -> Tensor:
    """(new, old) what turns the weights of `old` voxels in a row into those of `new` voxels."""
    few, many = sorted((old, new))
    enlarge = functional.interpolate(torch.eye(few, dtype=torch.float64)[None], size=many, mode="linear")[
        0
    ]  # few, many
    # Weights v of the few voxels x and w of the many agree if w · (x @ enlarge) = v · x for all x.
    return torch.linalg.pinv(enlarge) if new > old else enlarge


def _channels_in_words(old: Sequence[str], new: Sequence[str], sources: Sequence[int | None]) -> str:
    unknown = [name for name, source in zip(new, sources, strict=True) if source is None]
    return f"channels {', '.join(old)} to {', '.join(new)}" + (f" ({', '.join(unknown)}: the mean)" if unknown else "")

"""Adapting an encoder's weights to another patch, other channels or another grid of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.networks.build import described_encoder, described_inputs
from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions

POSITIONS = "positions"


@dataclass(frozen=True)
class Inputs:
    """The inputs of an encoder."""

    channels: tuple[str, ...]  # names of the scans' channels
    patch: Triple  # voxels of a patch along X, Y, Z
    grid: Triple  # patches of a crop along X, Y, Z; only learned positions depend on it

    @classmethod
    def of(cls, channels: Sequence[str], patch: Triple, crop: Triple) -> Self:
        """For crops of (X, Y, Z) voxels, a multiple of the patch."""
        x, y, z = (c // p for c, p in zip(crop, patch, strict=True))
        return cls(tuple(channels), patch, (x, y, z))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """From the metadata of a weights file."""
        x, y, z = metadata["crop"]
        return cls.of(described_inputs(metadata), described_encoder(metadata)[1].patch, (x, y, z))


def adapt(
    state: Mapping[str, Tensor], old: Inputs, new: Inputs, kernels: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Adapt an encoder's tensors to other inputs.

    `kernels` are the names of the weights that are applied to a volume (`Encoder.input_weights`): the patch embedding,
    or convolutions that do not depend on the patch.

    Returns:
        the tensors, and a description of the change of each adapted one.

    Raises:
        RuntimeError: a tensor does not fit `old`.
    """
    tensors, changes = dict(state), {}
    sources = channel_sources(old.channels, new.channels)
    same_channels = sources == list(range(len(old.channels)))
    channels = "" if same_channels else _describe_channels(old.channels, new.channels, sources)
    patch = f"patch {old.patch} to {new.patch}" if old.patch != new.patch else ""
    for name in state:
        embeds = state[name].dim() == 2 or tuple(state[name].shape[2:]) == old.patch
        if name in kernels and (channels or (patch and embeds)):
            shape = len(state[name]), len(old.channels), *(old.patch if embeds else state[name].shape[2:])
            kernel = state[name].reshape(shape)
            kernel = pick_channels(resize_patch(kernel, new.patch) if embeds else kernel, sources)
            tensors[name] = kernel if state[name].dim() == 5 else kernel.flatten(1)
            changes[name] = ", ".join(filter(None, (patch if embeds else "", channels)))
        elif name == POSITIONS and old.grid != new.grid:
            tensors[name] = resize_positions(state[name], old.grid, new.grid)
            changes[name] = f"grid {old.grid} to {new.grid}"
    return tensors, changes


def resize_patch(kernel: Tensor, patch: Triple) -> Tensor:
    """Resize a kernel (width, C, px, py, pz) by the pseudo-inverse of linear interpolation (arXiv 2212.08013).

    A patch that is enlarged by trilinear interpolation has the same embedding under the enlarged kernel. A kernel that
    is enlarged and then shrunk again is unchanged.
    """
    for axis, size in enumerate(patch, start=2):
        if size != kernel.shape[axis]:
            matrix = _resize_matrix(kernel.shape[axis], size).to(kernel.device)
            resized = torch.tensordot(kernel.double(), matrix, dims=([axis], [1])).movedim(-1, axis)
            kernel = resized.to(kernel.dtype)
    return kernel


def channel_sources(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """The index of the old channel of the same name (ignoring case) for each new channel, or None.

    A single channel replaces another single one, whatever their names.
    """
    if tuple(old) == tuple(new) or len(old) == len(new) == 1:
        return list(range(len(old)))
    index = {name.casefold(): i for i, name in enumerate(old)}
    return [index.get(name.casefold()) for name in new]


def pick_channels(kernel: Tensor, sources: Sequence[int | None]) -> Tensor:
    """Change the channels of a kernel (width, C, px, py, pz): each new one copies its source, or the mean if None.

    The kernel is scaled by the ratio of the old to the new number of channels, so that a volume that is the same in all
    channels keeps its embedding.
    """
    mean = kernel.mean(1)
    picked = torch.stack([mean if source is None else kernel[:, source] for source in sources], dim=1)
    return picked * (kernel.shape[1] / len(sources))


def _resize_matrix(old: int, new: int) -> Tensor:
    """(new, old) matrix that resizes the weights of a row of voxels."""
    short, long = sorted((old, new))
    (enlarge,) = functional.interpolate(torch.eye(short, dtype=torch.float64)[None], size=long, mode="linear")
    # Weights v of a short row x and w of the enlarged row are equivalent if w · (x @ enlarge) = v · x for all x.
    return torch.linalg.pinv(enlarge) if new > old else enlarge


def _describe_channels(old: Sequence[str], new: Sequence[str], sources: Sequence[int | None]) -> str:
    unknown = [name for name, source in zip(new, sources, strict=True) if source is None]
    return f"channels {', '.join(old)} to {', '.join(new)}" + (f" ({', '.join(unknown)}: the mean)" if unknown else "")

"""Comparing an exported network with the original in torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxmim.weights.load import load_segmentor


def load_contiguous(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A segmentor and its metadata, in contiguous format; with channels last, torch's rounding errors are larger."""
    network, metadata = load_segmentor(run)
    network.to(memory_format=torch.contiguous_format)
    return network, metadata


def input_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape (C, X, Y, Z) of a network's input, from the metadata of its weights."""
    return len(metadata["preparation"]["channels"]), *metadata["crop"]


def example(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """A random volume (B, *shape) float32, 0..1."""
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def largest_difference(exported: Callable[[Tensor], Tensor], network: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest absolute difference of two networks' outputs for volumes (B, *shape)."""
    volumes = [example(shape, batch) for batch in (1, 3)]  # other batch sizes than that of the export, 2
    return max(float((exported(volume) - network(volume)).abs().max()) for volume in volumes)

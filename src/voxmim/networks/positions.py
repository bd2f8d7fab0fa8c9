"""Position codes of a 3D grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.networks.patches import Triple

# The longest wavelength is about this many times 2 pi tokens. Crops are a few to some tens of tokens wide: with the
# 10000 of sentences most of the code would be constant over a crop, and neighbours could hardly be told apart.
TEMPERATURE = 20.0


def sincos_positions(grid: Triple, width: int) -> Tensor:
    """(N, width) fixed sine-cosine code, tokens in `patchify`'s order.

    Each axis takes a third of the width, half of it sines and half cosines of the token's index at frequencies
    from 1 to 1/`TEMPERATURE`, after "Attention Is All You Need" (arXiv 1706.03762); what does not divide by six stays
    zero.
    The index counts tokens, not the share of the crop, so that a larger crop keeps the distances it was trained with.
    """
    count = width // 6
    frequency = TEMPERATURE ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = []
    for axis in axes:
        angle = axis.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    code = torch.cat(parts, dim=1)
    return functional.pad(code, (0, width - code.shape[1])).float()


def resize_positions(table: Tensor, old: Triple, new: Triple) -> Tensor:
    """Interpolate a learned table (N_old, width) linearly from one grid of tokens to another: (N_new, width)."""
    if old == new:
        return table
    volume = table.reshape(*old, -1).permute(3, 0, 1, 2)[None]
    resized = functional.interpolate(volume.float(), size=new, mode="trilinear", align_corners=False)
    return resized[0].permute(1, 2, 3, 0).reshape(new[0] * new[1] * new[2], -1).to(table.dtype)

"""Position codes of a 3D grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.networks.patches import Triple

TEMPERATURE = 10000.0  # the longest wavelength, in 2 pi tokens, as in "Attention Is All You Need" (arXiv 1706.03762)
ROTARY_TEMPERATURE = 20.0  # crops are some tens of tokens wide: slower angles would be the same all over a crop


def sincos_positions(grid: Triple, width: int) -> Tensor:
    """(N, width) fixed sine-cosine code, tokens in `patchify`'s order.

    Each axis takes a third of the width, half of it sines and half cosines of the token's index at frequencies
    from 1 to 1/`TEMPERATURE`; what does not divide by six stays zero.
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


def rotary_angles(grid: Triple, width: int) -> Tensor:
    """(N, width // 2) angle by which each pair of an attention head's values turns, tokens in `patchify`'s order.

    Rotary position embedding (arXiv 2104.09864) in 3D: a third of the pairs turns with each axis's index, at
    frequencies from 1 to 1/`ROTARY_TEMPERATURE`; pairs that are left over do not turn.
    """
    count = width // 6
    frequency = ROTARY_TEMPERATURE ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequency for axis in axes], dim=1)
    return functional.pad(angles, (0, width // 2 - angles.shape[1])).float()


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turn the values of (B, heads, N, width) by (1 or B, N, width // 2): value i and i + width // 2 are a pair.

    The product of two tokens' turned values then depends on their places through the difference alone.
    """
    cosine, sine = angles.cos().unsqueeze(1).to(heads.dtype), angles.sin().unsqueeze(1).to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def resize_positions(table: Tensor, old: Triple, new: Triple) -> Tensor:
    """Interpolate a learned table (N_old, width) linearly from one grid of tokens to another: (N_new, width)."""
    if old == new:
        return table
    volume = table.reshape(*old, -1).permute(3, 0, 1, 2)[None]
    resized = functional.interpolate(volume.float(), size=new, mode="trilinear", align_corners=False)
    return resized[0].permute(1, 2, 3, 0).reshape(new[0] * new[1] * new[2], -1).to(table.dtype)

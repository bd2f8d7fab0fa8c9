"""Positional encodings of a 3D grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.settings import Triple

TEMPERATURE = 10000.0  # the longest wavelength, in 2 pi tokens, as in "Attention Is All You Need" (arXiv 1706.03762)
ROPE_TEMPERATURE = 20.0  # crops are some tens of tokens wide: slower angles would be the same all over a crop


def sincos_positions(grid: Triple, width: int) -> Tensor:
    """(N, width) fixed sine-cosine encoding, tokens in `patchify`'s order.

    Each axis takes a third of the width, half of it sines and half cosines of the token's index at frequencies
    from 1 to 1/`TEMPERATURE`; the remainder of a division by six stays zero. The index counts tokens, whatever the size
    of the crop, so that a larger crop keeps the distances of the training.
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


def rope_angles(grid: Triple, width: int, temperature: float = ROPE_TEMPERATURE) -> Tensor:
    """(N, width // 2) rotation angle of each pair of an attention head's values, tokens in `patchify`'s order.

    Rotary position embedding (RoPE, arXiv 2104.09864) in 3D: a third of the pairs rotates with each axis's index, at
    frequencies from 1 to 1/`temperature`; left-over pairs do not rotate.
    """
    count = width // 6
    frequency = temperature ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequency for axis in axes], dim=1)
    return functional.pad(angles, (0, width // 2 - angles.shape[1])).float()


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotate the values of (B, heads, N, width) by (1 or B, N, width // 2): values i and i + width // 2 are a pair.

    The product of two tokens' rotated values depends on their positions through the difference only.
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

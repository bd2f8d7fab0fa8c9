"""Positional encodings of a 3D grid of tokens."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.settings import Triple

TEMPERATURE = 10000.0  # the longest wavelength, in 2 pi tokens, as in "Attention Is All You Need" (arXiv 1706.03762)
ROPE_TEMPERATURE = 20.0  # crops are tens of tokens wide: lower frequencies would be constant over a crop


def sincos_positions(grid: Triple, width: int, device: torch.device | None = None) -> Tensor:
    """(N, width) fixed sine-cosine encoding, tokens in `patchify`'s order.

    Each axis takes a third of the width, half of it sines and half cosines of the token's index at frequencies
    from 1 to 1/`TEMPERATURE`; the remainder of a division by six is zero. The index counts tokens and is not scaled
    with the crop, so that distances are the same in a larger crop.
    """
    angles = _angles(grid, width // 6, TEMPERATURE, device)
    encoding = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return functional.pad(encoding, (0, width - encoding.shape[1])).float()


def rope_angles(
    grid: Triple, width: int, temperature: float = ROPE_TEMPERATURE, device: torch.device | None = None
) -> Tensor:
    """(N, width // 2) rotation angle of each pair of an attention head's values, tokens in `patchify`'s order.

    Rotary position embedding (RoPE, arXiv 2104.09864) in 3D: a third of the pairs rotates with each axis's index, at
    frequencies from 1 to 1/`temperature`; left-over pairs do not rotate.
    """
    angles = torch.cat(_angles(grid, width // 6, temperature, device), dim=1)
    return functional.pad(angles, (0, width // 2 - angles.shape[1])).float()


def _angles(grid: Triple, count: int, temperature: float, device: torch.device | None) -> list[Tensor]:
    """For each axis (N, count): the tokens' indices along it times frequencies from 1 to 1/temperature."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": device}  # on the device, so that nothing is copied
    frequency = temperature ** (-torch.arange(count, **options) / max(count, 1))
    axes = torch.meshgrid(*(torch.arange(n, **options) for n in grid), indexing="ij")
    return [axis.reshape(-1, 1) * frequency for axis in axes]


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotate the values of (B, heads, N, width) by (1 or B, N, width // 2): values i and i + width // 2 are a pair.

    The product of two tokens' rotated values depends on the difference of their positions only.
    """
    cosine, sine = angles.cos().unsqueeze(1).to(heads.dtype), angles.sin().unsqueeze(1).to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def resize_positions(table: Tensor, old: Triple, new: Triple) -> Tensor:
    """Interpolate a learned table (N_old, width) linearly from one grid of tokens to another: (N_new, width)."""
    volume = table.reshape(*old, -1).permute(3, 0, 1, 2)[None]
    resized = functional.interpolate(volume.float(), size=new, mode="trilinear", align_corners=False)
    return resized[0].permute(1, 2, 3, 0).reshape(new[0] * new[1] * new[2], -1).to(table.dtype)

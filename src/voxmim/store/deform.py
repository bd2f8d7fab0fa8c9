"""Augmentations that mix voxels: rotation, scaling and elastic deformation in one resampling; blur; low resolution."""

from typing import Any

import numpy as np
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

Spacing = tuple[float, float, float]


def deform(
    image: Tensor, label: Tensor, matrix: Tensor, elastic: Tensor, seed: Tensor, control: float, spacing: Spacing
) -> None:
    """Rotate, scale and deform crops about their middle, in place and in one resampling; edge voxels are repeated.

    Args:
        image: (B, C, X, Y, Z), interpolated linearly.
        label: (B, 1, X, Y, Z), by nearest neighbour; or empty.
        matrix: (B, 3, 3) rotation and scaling in mm.
        elastic: (B,) largest displacement of a control point along each axis in mm, or 0.
        seed: (B,) of the control points.
        control: distance of the control points in mm.
        spacing: voxel size in mm.
    """
    shape = image.shape[-3:]
    still = (matrix == torch.eye(3)).all(dim=(1, 2)) & (elastic == 0)
    # grid_sample has half extents as units, and coordinates Z, Y, X
    half = torch.tensor([n * s / 2 for n, s in zip(shape, spacing, strict=True)])
    grid_matrix = (matrix * half.reshape(1, 1, 3) / half.reshape(1, 3, 1)).flip(1)
    sides = [torch.linspace(-1, 1, n, device=image.device) * (n - 1) / n for n in shape]
    splines = [_spline(n, s, control).to(image.device) for n, s in zip(shape, spacing, strict=True)]
    for rows in portions(~still, image):
        x, y, z = (grid_matrix[rows, :, axis].to(image.device)[..., None] * side for axis, side in enumerate(sides))
        place = (z[:, :, None, None] + y[:, :, None, :, None]) + x[:, :, :, None, None]
        if torch.any(elastic[rows] > 0):
            points = _control_points(elastic[rows], seed[rows], [s.shape[1] for s in splines])
            points = (points / half.reshape(1, 3, 1, 1, 1)).flip(1)
            place += _along_axes(points.to(image.device), splines)
        grid = place.permute(0, 2, 3, 4, 1)
        image[rows] = _sample(image[rows], grid, "bilinear")
        if label.numel():
            label[rows] = _sample(label[rows].float(), grid, "nearest").to(label.dtype)


def _sample(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample (B, C, X, Y, Z) at the positions of a grid (B, X, Y, Z, 3)."""
    options: dict[str, Any] = {"mode": mode, "padding_mode": "border", "align_corners": False}
    if len(volume) > 1:
        return functional.grid_sample(volume, grid, **options)
    # on a CPU, threads share a batch but not a single crop, so its planes become a batch
    planes = volume.expand(grid.shape[1], -1, -1, -1, -1)
    return functional.grid_sample(planes, grid.transpose(0, 1), **options).transpose(0, 2)


def _control_points(reach: Tensor, seeds: Tensor, shape: list[int]) -> Tensor:
    """(B, 3, *shape) displacements within -reach..reach along each axis."""
    drawn = [torch.rand(3, *shape, generator=torch.Generator().manual_seed(int(seed) // 3)) * 2 - 1 for seed in seeds]
    return torch.stack(drawn) * reach.reshape(-1, 1, 1, 1, 1)


def _spline(voxels: int, spacing: float, control: float) -> Tensor:
    """(voxels, points) weights of a uniform cubic B-spline, which are positive and sum to 1."""
    place = (np.arange(voxels) + 0.5) * spacing / control
    knots = np.arange(-3, int(place[-1]) + 5)
    return torch.from_numpy(BSpline.design_matrix(place, knots, 3).toarray().astype(np.float32))


def smooth(image: Tensor, blur: Tensor, low_resolution: Tensor, spacing: Spacing) -> None:
    """Blur (B, C, X, Y, Z) by a sigma (B,) in mm, and simulate larger voxels, of a size (B,) in voxels; in place.

    Both are one matrix product along each axis. `spacing` is in mm.
    """
    for rows in portions((blur > 0) | (low_resolution > 1), image):
        pairs = list(zip(low_resolution[rows].tolist(), blur[rows].tolist(), strict=True))
        matrices = [
            torch.stack([_low_resolution(n, size) @ _blur(n, sigma / s) for size, sigma in pairs]).to(image.device)
            for n, s in zip(image.shape[-3:], spacing, strict=True)
        ]
        image[rows] = _along_axes(image[rows], matrices)


def _blur(voxels: int, sigma: float) -> Tensor:
    """(voxels, voxels) Gaussian filter with a sigma in voxels, truncated at four sigma; edge voxels are repeated."""
    return torch.from_numpy(
        gaussian_filter1d(np.eye(voxels, dtype=np.float32), max(sigma, 1e-6), axis=0, mode="nearest")
    )


def _low_resolution(voxels: int, size: float) -> Tensor:
    """(voxels, voxels) average pooling to voxels of `size`, and linear interpolation back."""
    few = max(1, round(voxels / size))
    means = functional.adaptive_avg_pool1d(torch.eye(voxels)[None], few)[0]
    return functional.interpolate(means[None], size=voxels, mode="linear", align_corners=False)[0].T


def _along_axes(volume: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply (B, C, X, Y, Z) by a matrix along each axis, the same for all crops or one for each."""
    x, y, z = (matrix.expand(len(volume), -1, -1) for matrix in matrices)
    volume = torch.einsum("bix,bcxyz->bciyz", x, volume)
    volume = torch.einsum("bjy,bcxyz->bcxjz", y, volume)
    return torch.einsum("bkz,bcxyz->bcxyk", z, volume)


def portions(chosen: Tensor, volume: Tensor) -> list[Any]:
    """Indices of the chosen crops: all at once on a GPU, one by one on a CPU, where small arrays fit the cache."""
    rows = chosen.nonzero().flatten()
    if volume.device.type == "cpu":
        return [slice(row, row + 1) for row in rows.tolist()]
    return [rows] if len(rows) else []

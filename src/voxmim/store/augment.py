"""Random changes of batches of crops, on their device; drawing the parameters is apart from applying them.

Each crop's parameters follow from its own seed, so that a crop is augmented alike in any batch and on any device.
Only the crops that a change was drawn for are touched by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.settings import Augmentation
from voxmim.store.crops import Batch

Spacing = tuple[float, float, float]


@dataclass
class Parameters:
    """What is done to each crop of a batch.

    Attributes:
        flip: (B, 3) bool, along X, Y, Z.
        turns: (B,) quarter turns in the X-Y plane.
        matrix: (B, 3, 3) rotation and scaling in mm, the identity where there is none.
        shift: (B,) added to the intensity.
        contrast: (B,) factor about the crop's mean.
        noise: (B,) standard deviation of added noise.
        seed: (B,) of the noise itself, and of the elastic deformation's control points.
        elastic: (B,) largest displacement along each axis in mm, 0 where there is none.
        control: distance of the elastic deformation's control points in mm, the same for all crops.
        blur: (B,) sigma in mm.
        low_resolution: (B,) size of the voxels that the crop is averaged to, in voxels; 1 changes nothing.
        gamma: (B,) exponent on the intensities within each channel's range.
        partner: label value to the one that takes its place in a crop that is flipped along X (see `sides`).
    """

    flip: Tensor
    turns: Tensor
    matrix: Tensor
    shift: Tensor
    contrast: Tensor
    noise: Tensor
    seed: Tensor
    elastic: Tensor
    control: float
    blur: Tensor
    low_resolution: Tensor
    gamma: Tensor
    partner: Mapping[int, int]


def draw(settings: Augmentation, seeds: Tensor, partner: Mapping[int, int] | None = None) -> Parameters:
    """Draw the parameters of each crop from its seed (B,); all on the CPU. For `partner` see `Parameters`."""
    rows = [_draw_numbers(int(seed)) for seed in seeds]
    chance, amount, turns, chance2, amount2 = (torch.stack(column) for column in zip(*rows, strict=True))
    matrix = torch.eye(3).repeat(len(rows), 1, 1)
    for i in (chance[:, 4] < settings.affine).nonzero().flatten().tolist():
        angles, size = amount[i, :3] * math.radians(settings.rotate), 1 + float(amount[i, 3]) * settings.scale
        matrix[i] = _rotation(angles) * size

    def with_chance(drawn: Tensor, share: float, values: Tensor, otherwise: float) -> Tensor:
        return torch.where(drawn < share, values, torch.tensor(otherwise, dtype=values.dtype))

    return Parameters(
        flip=(chance[:, :3] < settings.flip) & torch.tensor([settings.flip_x, True, True]),
        turns=with_chance(chance[:, 3], settings.rot90, turns, 0),
        matrix=matrix,
        shift=with_chance(chance[:, 5], settings.intensity, amount[:, 4] * settings.shift, 0),
        contrast=with_chance(chance[:, 6], settings.intensity, 1 + amount[:, 5] * settings.contrast, 1),
        noise=with_chance(chance[:, 7], settings.intensity, amount[:, 6].abs() * settings.noise, 0),
        seed=seeds,
        elastic=with_chance(chance2[:, 0], settings.elastic, amount2[:, 0].abs() * settings.displace, 0),
        control=settings.control,
        blur=with_chance(chance2[:, 1], settings.intensity, amount2[:, 1].abs() * settings.blur, 0),
        low_resolution=with_chance(
            chance2[:, 2], settings.intensity, 1 + amount2[:, 2].abs() * settings.low_resolution, 1
        ),
        gamma=with_chance(chance2[:, 3], settings.intensity, (1 + settings.gamma) ** amount2[:, 3], 1),
        partner=partner or {},
    )


def _draw_numbers(seed: int) -> tuple[Tensor, ...]:
    """Every number is drawn whether it is used or not, so that changing one chance leaves the others' draws alone."""
    generator = torch.Generator().manual_seed(seed)
    chance, amount = torch.rand(8, generator=generator), torch.rand(8, generator=generator) * 2 - 1
    turns = torch.randint(1, 4, (), generator=generator)
    # what came later is drawn last, so that it left the draws of the first alone
    return chance, amount, turns, torch.rand(4, generator=generator), torch.rand(4, generator=generator) * 2 - 1


def apply(batch: Batch, parameters: Parameters, spacing: Spacing) -> Batch:
    """Change the crops as told; labels follow the geometry by nearest neighbour, intensities do not touch them.

    The order is that of a scan's making: geometry, then blur and low resolution, contrast, brightness and gamma, and
    noise last.

    Args:
        batch: image (B, C, X, Y, Z) and label (B, 1, X, Y, Z); channels that are not present stay 0.
        parameters: one row per crop.
        spacing: of the crops in mm, so that rotations do not shear.
    """
    image, label = batch.image.clone(), batch.label.clone()  # changed in place from here on
    _resample(image, label, parameters, spacing)
    for volume in (image, label):
        _flip_and_turn(volume, parameters)
    _exchange_sides(label, parameters)
    _smooth(image, parameters, spacing)
    _change_intensity(image, parameters, batch.present)
    if not batch.present.all():
        image.masked_fill_(~batch.present.to(image.device)[..., None, None, None], 0)
    return batch._replace(image=image, label=label)


def _resample(image: Tensor, label: Tensor, parameters: Parameters, spacing: Spacing) -> None:
    """Rotate, scale and deform about the crop's middle, in one resampling; the edge is continued."""
    shape = image.shape[-3:]
    still = (parameters.matrix == torch.eye(3)).all(dim=(1, 2)) & (parameters.elastic == 0)
    # grid_sample counts in half extents and takes a place as its Z, Y, X
    half = torch.tensor([n * s / 2 for n, s in zip(shape, spacing, strict=True)])
    matrix = (parameters.matrix * half.reshape(1, 1, 3) / half.reshape(1, 3, 1)).flip(1)
    sides = [torch.linspace(-1, 1, n, device=image.device) * (n - 1) / n for n in shape]
    splines = [_spline(n, s, parameters.control).to(image.device) for n, s in zip(shape, spacing, strict=True)]
    for rows in _portions(~still, image):
        x, y, z = (matrix[rows, :, axis].to(image.device)[..., None] * side for axis, side in enumerate(sides))
        place = (z[:, :, None, None] + y[:, :, None, :, None]) + x[:, :, :, None, None]
        if torch.any(parameters.elastic[rows] > 0):
            points = _control_points(parameters.elastic[rows], parameters.seed[rows], [s.shape[1] for s in splines])
            points = (points / half.reshape(1, 3, 1, 1, 1)).flip(1)
            place += _along_axes(points.to(image.device), splines)
        grid = place.permute(0, 2, 3, 4, 1)
        image[rows] = _sample(image[rows], grid, "bilinear")
        if label.numel():
            label[rows] = _sample(label[rows].float(), grid, "nearest").to(label.dtype)


def _sample(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Take (B, C, X, Y, Z) at the places of a grid (B, X, Y, Z, 3)."""
    options: dict[str, Any] = {"mode": mode, "padding_mode": "border", "align_corners": False}
    if len(volume) > 1:
        return functional.grid_sample(volume, grid, **options)
    # on a CPU a batch is shared out among the threads, but not a single crop: its planes are made a batch
    planes = volume.expand(grid.shape[1], -1, -1, -1, -1)
    return functional.grid_sample(planes, grid.transpose(0, 1), **options).transpose(0, 2)


def _control_points(reach: Tensor, seeds: Tensor, shape: list[int]) -> Tensor:
    """(B, 3, *shape) displacements within -reach..reach along each axis."""
    drawn = [torch.rand(3, *shape, generator=torch.Generator().manual_seed(int(seed) // 3)) * 2 - 1 for seed in seeds]
    return torch.stack(drawn) * reach.reshape(-1, 1, 1, 1, 1)


def _spline(voxels: int, spacing: float, control: float) -> Tensor:
    """(voxels, points) the weight of each control point in each voxel, of a uniform cubic B-spline.

    The weights are positive and sum to 1, so that no voxel is displaced further than a control point.
    """
    place = (torch.arange(voxels) + 0.5) * spacing / control
    first = place.floor()
    t = (place - first)[:, None]
    weights = torch.cat([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    columns = first.long()[:, None] + torch.arange(4)
    return torch.zeros(voxels, int(columns.max()) + 1).scatter(1, columns, weights)


def _flip_and_turn(volume: Tensor, parameters: Parameters) -> None:
    """Flip and turn, the crops with the same flips and turns together."""
    turns = parameters.turns * (volume.shape[-3] == volume.shape[-2])  # only what is square can be turned
    kinds, kind = torch.cat([parameters.flip.long(), turns[:, None]], dim=1).unique(dim=0, return_inverse=True)
    for number, (*flip, turn) in enumerate(kinds.tolist()):
        axes = [axis + 2 for axis in range(3) if flip[axis]]
        for rows in _portions(kind == number, volume) if volume.numel() and (axes or turn) else ():
            flipped = volume[rows].flip(axes) if axes else volume[rows]
            volume[rows] = flipped.rot90(turn, (2, 3)) if turn else flipped


def _exchange_sides(label: Tensor, parameters: Parameters) -> None:
    """Give labels that have a side that of the mirror image, in the crops that are flipped along X."""
    flipped = parameters.flip[:, 0].to(label.device)
    if parameters.partner and label.numel() and flipped.any():
        table = torch.arange(int(label.max().clamp(min=max(parameters.partner))) + 1, device=label.device)
        table[list(parameters.partner)] = table[list(parameters.partner.values())]
        label[flipped] = table[label[flipped]]


def _smooth(image: Tensor, parameters: Parameters, spacing: Spacing) -> None:
    """Blur and simulate a low resolution: both mix voxels along one axis at a time, and thus by one matrix per axis."""
    for rows in _portions((parameters.blur > 0) | (parameters.low_resolution > 1), image):
        matrices = [
            torch.stack(
                [
                    _low_resolution(n, size) @ _blur(n, sigma / s)
                    for size, sigma in zip(
                        parameters.low_resolution[rows].tolist(), parameters.blur[rows].tolist(), strict=True
                    )
                ]
            ).to(image.device)
            for n, s in zip(image.shape[-3:], spacing, strict=True)
        ]
        image[rows] = _along_axes(image[rows], matrices)


def _blur(voxels: int, sigma: float) -> Tensor:
    """(voxels, voxels) a Gaussian of sigma voxels, cut off at four sigma; the edge is continued."""
    radius = int(4 * sigma + 0.5)
    away = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-((away / max(sigma, 1e-6)) ** 2) / 2)
    columns = (torch.arange(voxels)[:, None] + away).clamp(0, voxels - 1)
    return torch.zeros(voxels, voxels).scatter_add(1, columns, (kernel / kernel.sum()).expand(voxels, -1))


def _low_resolution(voxels: int, size: float) -> Tensor:
    """(voxels, voxels) means over voxels of `size` times the size, and linear interpolation back."""
    few = max(1, round(voxels / size))
    means = functional.adaptive_avg_pool1d(torch.eye(voxels)[None], few)[0]
    return functional.interpolate(means[None], size=voxels, mode="linear", align_corners=False)[0].T


def _along_axes(volume: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply (B, C, X, Y, Z) by a matrix along each axis, the same for all crops or one for each."""
    x, y, z = (matrix.expand(len(volume), -1, -1) for matrix in matrices)
    volume = torch.einsum("bix,bcxyz->bciyz", x, volume)
    volume = torch.einsum("bjy,bcxyz->bcxjz", y, volume)
    return torch.einsum("bkz,bcxyz->bcxyk", z, volume)


def _change_intensity(image: Tensor, parameters: Parameters, present: Tensor) -> None:
    """Contrast, brightness, gamma and noise; contrast turns about the mean of the channels that are present."""
    share = present.shape[1] / present.sum(1)

    def column(values: Tensor) -> Tensor:
        return values.to(image.device).reshape(-1, 1, 1, 1, 1)

    for rows in _portions(parameters.contrast != 1, image):
        mean = image[rows].mean(dim=(1, 2, 3, 4), keepdim=True) * column(share[rows])
        image[rows] += (image[rows] - mean) * (column(parameters.contrast[rows]) - 1)
    image += column(parameters.shift)
    for rows in _portions(parameters.gamma != 1, image):
        low, high = (bound(image[rows], dim=(2, 3, 4), keepdim=True) for bound in (torch.amin, torch.amax))
        span = (high - low).clamp(min=torch.finfo(image.dtype).tiny)  # a channel of one value stays as it is
        image[rows] = ((image[rows] - low) / span).pow_(column(parameters.gamma[rows])).mul_(high - low).add_(low)
    for row in (parameters.noise > 0).nonzero().flatten().tolist():
        noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(int(parameters.seed[row]) // 2))
        image[row] += noise.to(image.device) * parameters.noise[row].to(image.device)


def _portions(chosen: Tensor, volume: Tensor) -> list[Any]:
    """The chosen crops as indices: on a GPU all at once, on a CPU one by one, as what fits the cache goes faster."""
    rows = chosen.nonzero().flatten()
    if volume.device.type == "cpu":
        return [slice(row, row + 1) for row in rows.tolist()]
    return [rows] if len(rows) else []


def _rotation(angles: Tensor) -> Tensor:
    """(3, 3) rotation about X, then Y, then Z by angles in radians."""
    product = torch.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = angle.cos()
        turn[i, j], turn[j, i] = -angle.sin(), angle.sin()
        product = turn @ product
    return product

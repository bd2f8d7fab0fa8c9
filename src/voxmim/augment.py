"""Random changes of whole batches of crops, on the device, parameters drawn apart from their application.

Each crop's parameters follow from its own seed, so that a crop is augmented alike in any batch and on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.crops import Batch
from voxmim.settings import Augmentation


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
        seed: (B,) of the noise itself.
    """

    flip: Tensor
    turns: Tensor
    matrix: Tensor
    shift: Tensor
    contrast: Tensor
    noise: Tensor
    seed: Tensor


def draw(settings: Augmentation, seeds: Tensor) -> Parameters:
    """Draw the parameters of each crop from its seed (B,); all on the CPU."""
    rows = [_draw_one(settings, int(seed)) for seed in seeds]
    flip, turns, matrix, shift, contrast, noise = (torch.stack(column) for column in zip(*rows, strict=True))
    return Parameters(flip, turns, matrix, shift, contrast, noise, seeds)


def _draw_one(settings: Augmentation, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    # Every number is drawn whether it is used or not, so that changing one chance leaves the others' draws alone.
    chance = torch.rand(8, generator=generator)
    amount = torch.rand(8, generator=generator) * 2 - 1
    flip = chance[:3] < settings.flip
    turns = torch.where(chance[3] < settings.rot90, torch.randint(1, 4, (), generator=generator), torch.tensor(0))
    matrix = torch.eye(3)
    if chance[4] < settings.affine:
        matrix = _rotation(amount[:3] * math.radians(settings.rotate)) * (1 + float(amount[3]) * settings.scale)
    shift = torch.where(chance[5] < settings.intensity, amount[4] * settings.shift, torch.tensor(0.0))
    contrast = torch.where(chance[6] < settings.intensity, 1 + amount[5] * settings.contrast, torch.tensor(1.0))
    noise = torch.where(chance[7] < settings.intensity, amount[6].abs() * settings.noise, torch.tensor(0.0))
    return flip, turns, matrix, shift, contrast, noise


def apply(batch: Batch, parameters: Parameters, spacing: tuple[float, float, float]) -> Batch:
    """Change the crops as told; labels follow the geometry by nearest neighbour, intensities do not touch them.

    Args:
        batch: image (B, C, X, Y, Z) and label (B, 1, X, Y, Z).
        parameters: one row per crop.
        spacing: of the crops in mm, so that rotations do not shear.
    """
    image, label = _resample(batch.image, batch.label, parameters.matrix, spacing)
    image, label = _flip_and_turn(image, parameters), _flip_and_turn(label, parameters)

    def column(values: Tensor) -> Tensor:
        return values.to(image.device).reshape(-1, 1, 1, 1, 1)

    if not torch.all(parameters.contrast == 1):
        mean = image.mean(dim=(1, 2, 3, 4), keepdim=True)
        image = image + (image - mean) * (column(parameters.contrast) - 1)  # a factor of 1 changes not one bit
    image = image + column(parameters.shift)
    if torch.any(parameters.noise > 0):
        noise = [
            torch.randn(one.shape, generator=torch.Generator().manual_seed(int(seed) // 2))
            for one, seed in zip(image, parameters.seed, strict=True)
        ]
        image = image + torch.stack(noise).to(image.device) * column(parameters.noise)
    return batch._replace(image=image, label=label)


def _resample(
    image: Tensor, label: Tensor, matrix: Tensor, spacing: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Rotate and scale about the crop's middle, one resampling for each crop that needs it; the edge is continued."""
    moved = [i for i, one in enumerate(matrix) if not torch.equal(one, torch.eye(3))]
    if not moved:
        return image, label
    # grid_sample counts in half extents and orders the axes Z, Y, X
    half = torch.tensor([n * s / 2 for n, s in zip(image.shape[-3:], spacing, strict=True)])
    theta = (matrix[moved] * half.reshape(1, 1, 3) / half.reshape(1, 3, 1)).flip(1).flip(2)
    theta = functional.pad(theta, (0, 1)).to(image.device)
    grid = functional.affine_grid(theta, [len(moved), 1, *image.shape[-3:]], align_corners=False)
    options: dict[str, Any] = {"padding_mode": "border", "align_corners": False}
    image = image.clone()
    image[moved] = functional.grid_sample(image[moved], grid, mode="bilinear", **options)
    if label.numel():
        label = label.clone()
        label[moved] = functional.grid_sample(label[moved].float(), grid, mode="nearest", **options).to(label.dtype)
    return image, label


def _flip_and_turn(volume: Tensor, parameters: Parameters) -> Tensor:
    if not volume.numel():
        return volume
    rows = []
    for one, flip, turns in zip(volume, parameters.flip, parameters.turns, strict=True):
        axes = [axis + 1 for axis in range(3) if flip[axis]]
        one = one.flip(axes) if axes else one
        if turns and one.shape[1] == one.shape[2]:
            one = one.rot90(int(turns), (1, 2))
        rows.append(one)
    return torch.stack(rows)


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

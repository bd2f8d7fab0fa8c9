"""Augmentation of batches of crops on their device: drawing random parameters, and applying them.

Each crop's parameters are drawn with its own seed, so a crop is augmented in the same way in any batch and on any
device. A change is only computed for the crops that it was drawn for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from voxmim.settings import Augmentation
from voxmim.store.crops import Batch
from voxmim.store.deform import Spacing, deform, portions, smooth


@dataclass
class Parameters:
    """The parameters of each crop of a batch."""

    flip: Tensor  # (B, 3) bool, along X, Y, Z
    turns: Tensor  # (B,) quarter turns in the X-Y plane
    matrix: Tensor  # (B, 3, 3) rotation and scaling in mm, or the identity
    shift: Tensor  # (B,) added to the intensity
    contrast: Tensor  # (B,) factor about the crop's mean
    noise: Tensor  # (B,) standard deviation of added noise
    seed: Tensor  # (B,) of the noise, and of the control points of elastic deformation
    elastic: Tensor  # (B,) largest displacement along each axis in mm, or 0
    control: float  # distance of the control points of elastic deformation in mm, the same for all crops
    blur: Tensor  # (B,) sigma in mm
    low_resolution: Tensor  # (B,) size of the simulated voxels, in voxels; 1 changes nothing
    gamma: Tensor  # (B,) exponent on the intensities within each channel's range
    partner: Mapping[int, int]  # the label value that replaces another in a crop flipped along X (see `sides`)


def draw(settings: Augmentation, seeds: Tensor, partner: Mapping[int, int] | None = None) -> Parameters:
    """Draw the parameters of each crop with its seed (B,), on the CPU. For `partner` see `Parameters`."""
    rows = [_draw_numbers(int(seed)) for seed in seeds]
    chance, amount, turns, chance2, amount2 = (torch.stack(column) for column in zip(*rows, strict=True))
    matrix = torch.eye(3).repeat(len(rows), 1, 1)
    for i in (chance[:, 4] < settings.affine).nonzero().flatten().tolist():
        angles, size = amount[i, :3] * math.radians(settings.rotate), 1 + float(amount[i, 3]) * settings.scale
        matrix[i] = torch.from_numpy(Rotation.from_euler("xyz", angles.numpy()).as_matrix()) * size

    def with_chance(drawn: Tensor, chance: float, values: Tensor, otherwise: float) -> Tensor:
        return torch.where(drawn < chance, values, torch.tensor(otherwise, dtype=values.dtype))

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
    """Draw all numbers, used or not, so that changing one setting does not change the draws of the others."""
    generator = torch.Generator().manual_seed(seed)
    chance, amount = torch.rand(8, generator=generator), torch.rand(8, generator=generator) * 2 - 1
    turns = torch.randint(1, 4, (), generator=generator)
    # drawn last, so that the draws of older recipes do not change
    return chance, amount, turns, torch.rand(4, generator=generator), torch.rand(4, generator=generator) * 2 - 1


def apply(batch: Batch, parameters: Parameters, spacing: Spacing) -> Batch:
    """Augment a batch; label maps are transformed by nearest neighbour.

    The order is geometry, blur and low resolution, contrast, brightness and gamma, noise. Channels that are not present
    stay 0. `spacing` is in mm, so that rotations do not shear.
    """
    image, label = batch.image.clone(), batch.label.clone()  # changed in place from here on
    deform(image, label, parameters.matrix, parameters.elastic, parameters.seed, parameters.control, spacing)
    for volume in (image, label):
        _flip_and_turn(volume, parameters)
    _exchange_sides(label, parameters)
    smooth(image, parameters.blur, parameters.low_resolution, spacing)
    _change_intensity(image, parameters, batch.present)
    if not batch.present.all():
        image.masked_fill_(~batch.present.to(image.device)[..., None, None, None], 0)
    return batch._replace(image=image, label=label)


def _flip_and_turn(volume: Tensor, parameters: Parameters) -> None:
    """Flip and turn in place; crops with the same flips and turns are grouped."""
    turns = parameters.turns * (volume.shape[-3] == volume.shape[-2])  # only square crops can be turned
    kinds, kind = torch.cat([parameters.flip.long(), turns[:, None]], dim=1).unique(dim=0, return_inverse=True)
    for number, (*flip, turn) in enumerate(kinds.tolist()):
        axes = [axis + 2 for axis in range(3) if flip[axis]]
        for rows in portions(kind == number, volume) if volume.numel() and (axes or turn) else ():
            flipped = volume[rows].flip(axes) if axes else volume[rows]
            volume[rows] = flipped.rot90(turn, (2, 3)) if turn else flipped


def _exchange_sides(label: Tensor, parameters: Parameters) -> None:
    """Exchange left and right labels in the crops that are flipped along X."""
    flipped = parameters.flip[:, 0].to(label.device)
    if parameters.partner and label.numel() and flipped.any():
        table = torch.arange(int(label.max().clamp(min=max(parameters.partner))) + 1, device=label.device)
        table[list(parameters.partner)] = table[list(parameters.partner.values())]
        label[flipped] = table[label[flipped]]


def _change_intensity(image: Tensor, parameters: Parameters, present: Tensor) -> None:
    """Change contrast (about the mean of the present channels), brightness and gamma, and add noise, in place."""
    scale = present.shape[1] / present.sum(1)

    def column(values: Tensor) -> Tensor:
        return values.to(image.device).reshape(-1, 1, 1, 1, 1)

    for rows in portions(parameters.contrast != 1, image):
        mean = image[rows].mean(dim=(1, 2, 3, 4), keepdim=True) * column(scale[rows])
        image[rows] += (image[rows] - mean) * (column(parameters.contrast[rows]) - 1)
    image += column(parameters.shift)
    for rows in portions(parameters.gamma != 1, image):
        low, high = (bound(image[rows], dim=(2, 3, 4), keepdim=True) for bound in (torch.amin, torch.amax))
        span = (high - low).clamp(min=torch.finfo(image.dtype).tiny)  # a constant channel is unchanged
        image[rows] = ((image[rows] - low) / span).pow_(column(parameters.gamma[rows])).mul_(high - low).add_(low)
    for row in (parameters.noise > 0).nonzero().flatten().tolist():
        noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(int(parameters.seed[row]) // 2))
        image[row] += noise.to(image.device) * parameters.noise[row].to(image.device)

"""Batches and settings for the tests of augmentation."""

from __future__ import annotations

from dataclasses import replace

import torch

from voxmim.settings import Augmentation
from voxmim.store.augment import Parameters, draw
from voxmim.store.crops import Batch

FIRST_VERSION = Augmentation(
    flip=0.5, rot90=0.5, affine=0.7, rotate=30.0, scale=0.2, shift=0.3, contrast=0.3, noise=0.2, intensity=0.7
)  # the augmentations of the first version
EVERYTHING = replace(FIRST_VERSION, elastic=0.6, displace=4.0, control=10.0, gamma=0.5, blur=2.0, low_resolution=1.5)
NOTHING = Augmentation(flip=0.0, rot90=0.0, affine=0.0, intensity=0.0)
SPACING = (1.0, 1.5, 2.5)


def some_batch(size: tuple[int, int, int] = (10, 10, 8), crops: int = 4, first_seed: int = 100) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(crops, 2, *size, generator=generator)
    label = torch.randint(0, 3, (crops, 1, *size), generator=generator)
    names, present = [f"case_{i}" for i in range(crops)], torch.ones(image.shape[:2], dtype=torch.bool)
    return Batch(image, label, torch.arange(first_seed, first_seed + crops), names, present)


def identity(crops: int) -> Parameters:
    """Parameters that change nothing."""
    return draw(NOTHING, torch.arange(crops))

"""Augmented crops per second on the CPU, compared with the same transforms in MONAI.

    python benchmarks/augmentation.py [--sizes 96 32]

Both sides get the same crops with label maps, and use the same probabilities and maximum magnitudes: flips along each
axis, 90-degree rotations, rotation, scaling and elastic deformation in one resampling (`Rand3DElasticd`), gamma, blur,
noise, low resolution and intensity shift. MONAI's elastic deformation is slow, because it smooths dense noise. So two
cheaper variants are measured too: `RandAffined` followed by `RandGridDistortiond`, and `RandAffined` alone. Both sides
alternate in one process. The goal is five times the crops per second of MONAI's `Rand3DElasticd`.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from monai import transforms
from torch import Tensor

from voxmim.report.machine import machine
from voxmim.settings import Augmentation
from voxmim.store.augment import apply, draw
from voxmim.store.crops import Batch

# Control points 12 voxels apart, displaced by up to 4 voxels, give deformations about as smooth and as large as
# MONAI's with a sigma of 7 voxels and a magnitude of 130.
OURS = Augmentation(
    flip=0.5, rot90=0.25, affine=0.3, rotate=15.0, scale=0.15, elastic=0.3, displace=4.0, control=12.0,
    shift=0.1, contrast=0.0, noise=0.1, gamma=0.5, blur=1.0, low_resolution=1.0, intensity=0.25,
)  # fmt: skip
KEYS = ("image", "label")
CHAINS = {"elastic": "Rand3DElasticd", "grid": "RandAffined + RandGridDistortiond", "none": "RandAffined"}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 32], help="crop sizes in voxels (default: 96 32)")
    parser.add_argument("--crops", type=int, default=16, help="crops per batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    print("| crops | MONAI's geometry | threads | MONAI, crops/s | voxmim, crops/s | voxmim / MONAI |")
    print("|---|---|---:|---:|---:|---:|")
    for size in options.sizes:
        batch = random_batch(options.crops, size)
        for threads in options.threads:
            torch.set_num_threads(threads)
            for chain, name in CHAINS.items():
                theirs, ours = measure(batch, chain, options.rounds)
                print(f"| {size}³ | {name} | {threads} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.1f} |", flush=True)
    print(f"\nbatches of {options.crops} crops with labels, {options.rounds} rounds")
    print(machine())


def measure(batch: Batch, chain: str, rounds: int) -> tuple[float, float]:
    """Crops per second of MONAI's transforms and of voxmim's, alternating on the same crops."""
    theirs, ours = monai_chain(chain), OURS if chain != "none" else replace(OURS, elastic=0.0)
    theirs.set_random_state(0)
    totals = [0.0, 0.0]
    for number in range(rounds + 1):
        seeds = torch.arange(number * len(batch.seed), (number + 1) * len(batch.seed))
        rows = [{"image": image, "label": label} for image, label in zip(batch.image, batch.label, strict=True)]
        times = seconds(lambda rows: [theirs(row) for row in rows], rows), seconds(augment, batch, ours, seeds)
        if number:  # the first round warms up
            totals = [total + time for total, time in zip(totals, times, strict=True)]
    return rounds * len(batch.seed) / totals[0], rounds * len(batch.seed) / totals[1]


def augment(batch: Batch, settings: Augmentation, seeds: Tensor) -> Batch:
    return apply(batch, draw(settings, seeds), (1.0, 1.0, 1.0))


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def monai_chain(chain: str) -> Any:
    """MONAI transforms equivalent to `OURS`."""
    geometry = {
        "rotate_range": [math.radians(OURS.rotate)] * 3, "scale_range": [OURS.scale] * 3,
        "mode": ("bilinear", "nearest"), "padding_mode": "border",
    }  # fmt: skip
    either = 1 - (1 - OURS.affine) * (1 - OURS.elastic)  # Rand3DElasticd has one probability for affine and elastic
    spatial = {
        "elastic": [transforms.Rand3DElasticd(KEYS, (6.5, 7.5), (0, 130), prob=either, **geometry)],
        "grid": [
            transforms.RandAffined(KEYS, prob=OURS.affine, **geometry),
            transforms.RandGridDistortiond(
                KEYS, num_cells=8, prob=OURS.elastic, distort_limit=0.3, mode=geometry["mode"], padding_mode="border"
            ),
        ],
        "none": [transforms.RandAffined(KEYS, prob=OURS.affine, **geometry)],
    }[chain]
    prob, sigmas = OURS.intensity, [(0.0, OURS.blur)] * 3
    return transforms.Compose(
        [
            *spatial,
            *[transforms.RandFlipd(KEYS, prob=OURS.flip, spatial_axis=axis) for axis in range(3)],
            transforms.RandRotate90d(KEYS, prob=OURS.rot90, max_k=3),
            transforms.RandGaussianSmoothd("image", *sigmas, prob=prob),
            transforms.RandSimulateLowResolutiond("image", prob=prob, zoom_range=(1 / (1 + OURS.low_resolution), 1)),
            transforms.RandShiftIntensityd("image", OURS.shift, prob=prob),
            transforms.RandAdjustContrastd("image", prob=prob, gamma=(1 / (1 + OURS.gamma), 1 + OURS.gamma)),
            transforms.RandGaussianNoised("image", prob=prob, std=OURS.noise),
        ]
    )


def random_batch(count: int, size: int) -> Batch:
    """Smooth noise, labelled where it exceeds a threshold."""
    coarse = torch.rand(count, 1, *[size // 8] * 3, generator=torch.Generator().manual_seed(0))
    image: Tensor = torch.nn.functional.interpolate(coarse, size=(size, size, size), mode="trilinear")
    return Batch(
        image, (image > 0.6).long(), torch.arange(count), ["synthetic"] * count, torch.ones(count, 1, dtype=torch.bool)
    )


if __name__ == "__main__":
    main()

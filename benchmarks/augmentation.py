"""How many crops a second are augmented, beside the same chain in MONAI's dictionary transforms on the CPU.

    python benchmarks/augmentation.py [--sizes 96 32]

Both get the same crops with label maps, the same chances and the same largest amounts: flips along each axis, quarter
turns, rotation with scaling and elastic deformation in one resampling (`Rand3DElasticd`), gamma, blur, noise, low
resolution and a shift of intensity. MONAI's elastic deformation smooths noise of every voxel, which costs it most;
therefore its cheaper neighbours are measured too: rotation with scaling (`RandAffined`) followed by a grid distortion
(`RandGridDistortiond`), and no deformation at all. They take turns, round by round, in one process. The aim: five
times the crops of the same chain.
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

# A spline of control points 12 voxels apart is as smooth as noise under a Gaussian of 7 voxels, and 130 times that
# noise displaces voxels as far as points that move by up to 4 do.
OURS = Augmentation(
    flip=0.5, rot90=0.25, affine=0.3, rotate=15.0, scale=0.15, elastic=0.3, displace=4.0, control=12.0,
    shift=0.1, contrast=0.0, noise=0.1, gamma=0.5, blur=1.0, low_resolution=1.0, intensity=0.25,
)  # fmt: skip
BOTH = ("image", "label")
CHAINS = {"elastic": "Rand3DElasticd", "grid": "RandAffined + RandGridDistortiond", "none": "RandAffined"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[96, 32], help="voxels along each axis (default: 96 32)"
    )
    parser.add_argument("--crops", type=int, default=16, help="crops of a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    print("| crops | MONAI's geometry | threads | MONAI, crops/s | voxmim, crops/s | voxmim / MONAI |")
    print("|---|---|---:|---:|---:|---:|")
    for size in options.sizes:
        batch = some_crops(options.crops, size)
        for threads in options.threads:
            torch.set_num_threads(threads)
            for chain, name in CHAINS.items():
                theirs, ours = measure(batch, chain, options.rounds)
                print(f"| {size}³ | {name} | {threads} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.1f} |", flush=True)
    print(f"\nbatches of {options.crops} crops with labels, {options.rounds} rounds")
    print(machine())


def measure(batch: Batch, chain: str, rounds: int) -> tuple[float, float]:
    """Crops a second of MONAI's chain and of ours, turn by turn on the same crops."""
    theirs, ours = monai_chain(chain), OURS if chain != "none" else replace(OURS, elastic=0.0)
    theirs.set_random_state(0)
    spent = [0.0, 0.0]
    for number in range(rounds + 1):
        seeds = torch.arange(number * len(batch.seed), (number + 1) * len(batch.seed))
        rows = [{"image": image, "label": label} for image, label in zip(batch.image, batch.label, strict=True)]
        times = seconds(lambda rows: [theirs(row) for row in rows], rows), seconds(augmented, batch, ours, seeds)
        if number:  # the first round warms up
            spent = [total + time for total, time in zip(spent, times, strict=True)]
    return rounds * len(batch.seed) / spent[0], rounds * len(batch.seed) / spent[1]


def augmented(batch: Batch, settings: Augmentation, seeds: Tensor) -> Batch:
    return apply(batch, draw(settings, seeds), (1.0, 1.0, 1.0))


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def monai_chain(chain: str) -> Any:
    """The chain of `OURS` as MONAI has it."""
    geometry = {
        "rotate_range": [math.radians(OURS.rotate)] * 3, "scale_range": [OURS.scale] * 3,
        "mode": ("bilinear", "nearest"), "padding_mode": "border",
    }  # fmt: skip
    either = 1 - (1 - OURS.affine) * (1 - OURS.elastic)
    elastic = {
        # one chance for all three, since MONAI has no other in one resampling
        "elastic": [transforms.Rand3DElasticd(BOTH, (6.5, 7.5), (0, 130), prob=either, **geometry)],
        "grid": [
            transforms.RandAffined(BOTH, prob=OURS.affine, **geometry),
            transforms.RandGridDistortiond(
                BOTH, num_cells=8, prob=OURS.elastic, distort_limit=0.3, mode=geometry["mode"], padding_mode="border"
            ),
        ],
        "none": [transforms.RandAffined(BOTH, prob=OURS.affine, **geometry)],
    }[chain]
    chance, widths = OURS.intensity, [(0.0, OURS.blur)] * 3
    return transforms.Compose(
        [
            *elastic,
            *[transforms.RandFlipd(BOTH, prob=OURS.flip, spatial_axis=axis) for axis in range(3)],
            transforms.RandRotate90d(BOTH, prob=OURS.rot90, max_k=3),
            transforms.RandGaussianSmoothd("image", *widths, prob=chance),
            transforms.RandSimulateLowResolutiond("image", prob=chance, zoom_range=(1 / (1 + OURS.low_resolution), 1)),
            transforms.RandShiftIntensityd("image", OURS.shift, prob=chance),
            transforms.RandAdjustContrastd("image", prob=chance, gamma=(1 / (1 + OURS.gamma), 1 + OURS.gamma)),
            transforms.RandGaussianNoised("image", prob=chance, std=OURS.noise),
        ]
    )


def some_crops(count: int, size: int) -> Batch:
    """Smooth noise, and labels where it is high."""
    coarse = torch.rand(count, 1, *[size // 8] * 3, generator=torch.Generator().manual_seed(0))
    image: Tensor = torch.nn.functional.interpolate(coarse, size=(size, size, size), mode="trilinear")
    return Batch(
        image, (image > 0.6).long(), torch.arange(count), ["synthetic"] * count, torch.ones(count, 1, dtype=torch.bool)
    )


if __name__ == "__main__":
    main()

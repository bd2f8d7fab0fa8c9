"""How fast random crops are read from a store on one core, and whether memory stays flat.

    python benchmarks/read_crops.py [STORE]

Without a store, one of 20 CT-like scans is made in a temporary folder. The files are read through once beforehand, so
that it is the store that is measured and not the disk. The aim: at least 300 crops of 96³ a second, memory flat.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from voxmim.report.machine import machine
from voxmim.store.crops import CropPlan, Crops
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case

ROUND = 200  # crops between two looks at the clock


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", type=Path, nargs="?", help="a folder that 'voxmim prepare' wrote (default: synthetic)")
    parser.add_argument("--crops", type=int, default=10_000, help="crops to read in all (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="voxels of a crop along each axis (default: %(default)s)")
    parser.add_argument("--labels", action="store_true", help="read labels too, half of the crops about one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(options.store or make_store(Path(folder)))
        measure(store, options.crops, options.size, options.labels)


def measure(store: Store, count: int, size: int, labels: bool) -> None:
    """Read the crops and print the table."""
    cases = list(store.cases.values())
    plan = CropPlan((size, size, size), (-175.0, 250.0), 0, labelled=labels, foreground=0.5)
    crops = Crops(store, cases, plan)
    for number in range(2 * len(cases)):  # every file is opened and warm
        crops[number]
        store.image(cases[number // 2].name)
    wall, cpu, before = [], [], resident()
    for first in range(0, count, ROUND):
        numbers = range(first, min(first + ROUND, count))
        began, worked = time.perf_counter(), time.process_time()
        for number in numbers:
            crops[number]
        wall.append(len(numbers) / (time.perf_counter() - began))
        cpu.append(len(numbers) / (time.process_time() - worked))
    print(f"{len(cases)} scans, {len(store.preparation.channels)} channel(s), {count} crops of {size}³ float32, warm")
    print(f"  crops a second                      {statistics.median(wall):8.0f}   (median of rounds of {ROUND})")
    print(f"  crops a second of CPU time          {statistics.median(cpu):8.0f}")
    print(f"  resident memory before and after    {before:8.0f} {resident():8.0f} MiB")
    print(machine())


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_store(path: Path, scans: int = 20) -> Path:
    """A store of CT-like scans of about 200 x 160 x 140 voxels: a body of smooth tissues and noise in air."""
    cases = []
    for seed in range(scans):
        rng = np.random.default_rng(seed)
        x, y, z = (int(n + rng.integers(-15, 16)) for n in (200, 160, 140))
        coarse = rng.normal(40, 120, (x // 20 + 2, y // 20 + 2, z // 20 + 2))
        smooth = ndimage.zoom(coarse, 20, order=1)[:x, :y, :z]
        sides = np.meshgrid(*(np.linspace(-1, 1, n) for n in (x, y)), indexing="ij")
        body = (sides[0] ** 2 + sides[1] ** 2 < 0.9)[..., None]
        scan = np.where(body, smooth, -1000) + rng.normal(0, 12, (x, y, z))
        label = np.where(body & (smooth > 150), 1 + (smooth > 200), 0).astype(np.uint8)
        case = Case(f"case_{seed:02d}", "train", (x, y, z), ("synthetic",))
        cases.append(write_case(path, case, np.rint(scan).astype(np.int16)[None], label))
    Index("synthetic", Preparation((1.5, 1.5, 2.0), "ct", ("CT",)), {1: "dense", 2: "denser"}, cases).write(path)
    return path


if __name__ == "__main__":
    main()

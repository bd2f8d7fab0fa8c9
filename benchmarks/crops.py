"""Random crops per CPU second, compared with MONAI's PersistentDataset and CacheDataset, and file reads per crop.

All sides take four crops per scan, clip the intensities and stack the four into a batch. Stacking is included because
MONAI's crops are views, which are copied only then. The files are in the page cache. MONAI's datasets cache the
transforms before the crop, as float32. voxmim reads the store's files and keeps their bytes up to a limit. One row is
measured with all scans within the limit, another with a limit of a few scans, as for a large store.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.timing import Report, Work, alternate, resident_memory
from voxmim.images.volume import Volume, write_volume
from voxmim.store import file_cache
from voxmim.store.crops import CropPlan, Crops
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case

WINDOW, PER_SCAN = (-175.0, 250.0), 4


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Generate scans, and time the crops of all sides."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scans, size, shape = (4, 16, (40, 32, 28)) if smoke else (20, 96, (200, 160, 140))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scans(folder, scans, shape)
        plan = CropPlan((size, size, size), WINDOW, 0, PER_SCAN)
        count = scans * PER_SCAN
        for row, limit in (("", file_cache.LIMIT), (", few scans kept", 2**24)):
            file_cache.LIMIT, default = limit, file_cache.LIMIT
            crops = Crops(Store(folder / "store"), Store(folder / "store").in_split("train"), plan)
            sides = {"ours": crop_work(crops, count), **monai_sides(folder, size, scans)}
            seconds = alternate(sides, rounds, warm_up=2, clock=time.process_time)
            per_crop = {side: [value / count for value in values] for side, values in seconds.items()}
            for other in ("PersistentDataset", "CacheDataset"):
                rate = f"{1 / min(per_crop[other]):.0f} and {1 / min(per_crop['ours']):.0f} crops/s"
                report.ratio(f"crops against {other}{row}", per_crop[other], per_crop["ours"], rate)
            if not row:
                before = resident_memory()
                for _ in range(2 * rounds):
                    sides["ours"]()
                added = resident_memory() - before
                report.figure("memory that crops add", added, "GiB", f"over {2 * rounds * count} crops")
                cold = Crops(Store(folder / "store"), crops.cases, plan)
                reads = count_reads(crop_work(cold, count))
                report.figure("reads a crop", reads / count, "reads", f"{count} crops, cold cache")
            file_cache.LIMIT = default
    torch.set_num_threads(threads)


def crop_work(crops: Crops, count: int) -> Work:
    """Work that takes the next `count` crops of the stream, in batches."""
    firsts = iter(range(0, 10**9, PER_SCAN))

    def work() -> None:
        for _ in range(count // PER_SCAN):
            first = next(firsts)
            crops.batch(range(first, first + PER_SCAN))

    return work


def monai_sides(folder: Path, size: int, scans: int) -> dict[str, Work]:
    """Work that takes the same number of crops from MONAI's datasets, in batches."""
    from monai import data, transforms

    warnings.filterwarnings("ignore", module="monai")
    chain = transforms.Compose(
        [
            transforms.LoadImaged("image", ensure_channel_first=True),
            transforms.ScaleIntensityRanged("image", *WINDOW, b_min=0.0, b_max=1.0, clip=True),
            transforms.RandSpatialCropSamplesd("image", (size, size, size), PER_SCAN, random_size=False),
        ]
    )
    files = [{"image": str(file)} for file in sorted(folder.glob("*.nii"))]

    def work(dataset: Any) -> Work:
        def run() -> None:
            for index in range(scans):
                data.list_data_collate(dataset[index])

        return run

    persistent = data.PersistentDataset(files, chain, folder / "cache")
    cached = data.CacheDataset(files, chain, progress=False)
    return {"PersistentDataset": work(persistent), "CacheDataset": work(cached)}


def count_reads(work: Work) -> int:
    """Number of read system calls during the work."""

    def reads() -> int:
        return int(Path("/proc/self/io").read_text().split("syscr:")[1].split()[0])

    before = reads()
    work()
    return reads() - before


def make_scans(folder: Path, scans: int, shape: tuple[int, int, int]) -> None:
    """Write synthetic CT scans as NIfTI files and as a store."""
    cases = []
    for seed, (scan, label) in enumerate(synthetic_scans(scans, shape)):
        write_volume(folder / f"case_{seed:02d}.nii", Volume(scan, np.eye(4)))
        case = Case(f"case_{seed:02d}", "train", (scan.shape[1], scan.shape[2], scan.shape[3]), ("synthetic",))
        cases.append(write_case(folder / "store", case, scan, label))
    Index("synthetic", Preparation((1.0, 1.0, 1.0), "ct", ("CT",)), {1: "dense"}, cases).write(folder / "store")


def synthetic_scans(scans: int, shape: tuple[int, int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scans (1, X, Y, Z) int16 of a body in air, with smooth tissue and noise, and masks of the dense tissue."""
    for seed in range(scans):
        rng = np.random.default_rng(seed)
        x, y, z = (int(n + rng.integers(-n // 14, n // 14 + 1)) for n in shape)
        coarse = rng.normal(40, 120, (x // 20 + 2, y // 20 + 2, z // 20 + 2))
        smooth = ndimage.zoom(coarse, 20, order=1)[:x, :y, :z]
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (x, y)), indexing="ij")
        body = (axes[0] ** 2 + axes[1] ** 2 < 0.9)[..., None]
        scan = np.where(body, smooth, -1000) + rng.normal(0, 12, (x, y, z))
        yield np.rint(scan).astype(np.int16)[None], (body & (smooth > 150)).astype(np.uint8)

"""How many scans a second are prepared, beside the same chain in MONAI's transforms, and over several processes.

    python benchmarks/prepare.py [FOLDER] [--cores 1 2]

The same .nii.gz files are read, turned to RAS, resampled, clipped and cropped to their foreground: by `prepare_scan`
(which also tells which bodies are foreground, smooths what shrinks, and refuses damaged files), and by MONAI's
LoadImage, Orientation, Spacing, ScaleIntensityRange and CropForeground. They take turns, scan by scan, in one process
of one thread; its CPU time is what counts, as it is the same whatever else the machine does. Then `prepare` writes
stores in as many processes as --cores says. Without a folder, phantoms of CT size are made. The aims: three times
MONAI's scans, and as many times the scans as there are processes.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import numpy as np
from scipy import ndimage

from voxmim.images.volume import Volume, is_scan, write_volume
from voxmim.phantoms.trunk import draw_trunk
from voxmim.store.format import Preparation
from voxmim.store.prepare import prepare, prepare_scan

SHAPE = (256, 256, 150)
WINDOW = (-175.0, 250.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, nargs="?", help="of CT scans in .nii.gz (default: phantoms)")
    parser.add_argument("--scans", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds that count (default: %(default)s)")
    parser.add_argument("--spacing", type=float, nargs=3, default=[1.5, 1.5, 2.0], metavar=("X", "Y", "Z"))
    parser.add_argument("--cores", type=int, nargs="*", default=[1], help="processes, one after the other")
    options = parser.parse_args()
    import torch  # here, as every worker process reads this file

    from voxmim.report.machine import machine

    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "scans"
        if options.folder is None:
            make_scans(source, options.scans)
        else:
            source.mkdir()
            for file in sorted(filter(is_scan, options.folder.iterdir()))[: options.scans]:
                shutil.copy(file, source)
        x, y, z = options.spacing
        beside_monai(sorted(source.iterdir()), Preparation((x, y, z), "ct", ("CT",)), options.rounds)
        over_processes(source, Path(folder), (x, y, z), options.cores)
    print(machine())


def make_scans(folder: Path, count: int) -> None:
    """Phantoms of a trunk, at the size and with the noise of a CT."""
    for seed in range(count):
        coarse = draw_trunk(seed)[0]
        factors = [new / old for new, old in zip(SHAPE, coarse.shape, strict=True)]
        fine = ndimage.zoom(coarse.array[0].astype(np.float32), factors, order=1)
        fine += np.random.default_rng(seed).normal(0, 12, fine.shape).astype(np.float32)
        affine = np.diag([*(coarse.spacing / factors), 1.0])
        write_volume(folder / f"scan_{seed}.nii.gz", Volume(np.rint(fine).astype(np.int16)[None], affine))


def beside_monai(files: list[Path], preparation: Preparation, rounds: int) -> None:
    """Time both chains on each file in turn."""
    from monai import transforms

    chain = transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.Orientation(axcodes="RAS", labels=None),
            transforms.Spacing(pixdim=preparation.spacing, mode="bilinear"),
            transforms.ScaleIntensityRange(*WINDOW, b_min=0.0, b_max=1.0, clip=True),
            transforms.CropForeground(),
        ]
    )
    ours: Callable[[Path], object] = lambda file: prepare_scan([file], preparation)  # noqa: E731
    seconds: dict[str, list[float]] = {"MONAI": [], "voxmim": []}
    for turn in range(rounds + 1):
        for file in files:
            for name, act in (("MONAI", chain), ("voxmim", ours)):
                began = time.process_time()
                act(file)
                if turn:
                    seconds[name].append(time.process_time() - began)
    print(f"{len(files)} scans of about {np.mean([f.stat().st_size for f in files]) / 2**20:.0f} MiB, to {preparation}")
    print("| chain, one thread | CPU seconds a scan (median) | scans per CPU second |\n|---|---:|---:|")
    for name, spent in seconds.items():
        print(f"| {name} | {statistics.median(spent):.2f} | {len(spent) / sum(spent):.3f} |")
    ratios = [a / b for a, b in zip(seconds["MONAI"], seconds["voxmim"], strict=True)]
    print(f"voxmim / MONAI, median of the pairs: {statistics.median(ratios):.2f}")


def over_processes(source: Path, folder: Path, spacing: tuple[float, float, float], cores: list[int]) -> None:
    """Time whole stores; what it takes to start the processes counts."""
    scans = len(list(source.iterdir()))
    print("| prepare, processes | scans/s | seconds in all | CPU seconds in all |\n|---:|---:|---:|---:|")
    for run, workers in enumerate(cores):
        began, worked = time.perf_counter(), cpu_seconds()
        prepare(source, folder / f"store_{run}", spacing, "ct", workers, quiet=True)
        seconds = time.perf_counter() - began
        print(f"| {workers} | {scans / seconds:.3f} | {seconds:.1f} | {cpu_seconds() - worked:.1f} |")


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()

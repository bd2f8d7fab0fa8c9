"""Scans prepared per CPU second with one thread, compared with the same steps in MONAI.

Both sides read the same .nii.gz files, reorient them to RAS, resample, clip and crop to the foreground. MONAI uses
LoadImage, Orientation, Spacing, ScaleIntensityRange and CropForeground. voxmim uses `prepare_scan`, which also detects
the body, smooths before downsampling and rejects damaged files.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from benchmarks.timing import Report, alternate
from voxmim.images.volume import Volume, write_volume
from voxmim.phantoms.trunk import draw_trunk
from voxmim.store.format import Preparation
from voxmim.store.prepare import prepare_scan

WINDOW, SPACING = (-175.0, 250.0), (1.5, 1.5, 2.0)


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Time both sides on each file."""
    from monai import transforms

    warnings.filterwarnings("ignore", module="monai")
    threads = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    chain = transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.Orientation(axcodes="RAS", labels=None),
            transforms.Spacing(pixdim=SPACING, mode="bilinear"),
            transforms.ScaleIntensityRange(*WINDOW, b_min=0.0, b_max=1.0, clip=True),
            transforms.CropForeground(),
        ]
    )
    preparation = Preparation(SPACING, "ct", ("CT",))
    theirs: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in make_scans(Path(folder), 1 if smoke else 4, (64, 64, 40) if smoke else (256, 256, 150)):
            sides = {
                "theirs": lambda file=file: chain(file),
                "ours": lambda file=file: prepare_scan([file], preparation),
            }
            seconds = alternate(sides, max(1, rounds - 2), clock=time.process_time)
            theirs += seconds["theirs"]
            ours += seconds["ours"]
    report.ratio("prepare against MONAI's transforms", theirs, ours, "CPU seconds of a scan, 256x256x150")
    torch.set_num_threads(threads[0])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads[1])


def make_scans(folder: Path, count: int, shape: tuple[int, int, int]) -> list[Path]:
    """Write trunk phantoms with the size and noise of a CT."""
    files = []
    for seed in range(count):
        coarse = draw_trunk(seed)[0]
        factors = [new / old for new, old in zip(shape, coarse.shape, strict=True)]
        fine = ndimage.zoom(coarse.array[0].astype(np.float32), factors, order=1)
        fine += np.random.default_rng(seed).normal(0, 12, fine.shape).astype(np.float32)
        affine = np.diag([*(coarse.spacing / factors), 1.0])
        files.append(folder / f"scan_{seed}.nii.gz")
        write_volume(files[-1], Volume(np.rint(fine).astype(np.int16)[None], affine))
    return files

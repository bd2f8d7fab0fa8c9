"""Prediction of a label map, compared with MONAI's sliding window, and peak memory for a large scan.

The windows overlap by half and have Gaussian weights. MONAI sums logits, its default. The agreement of the labels is
measured on validation scans with a trained network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import VIT_B, VIT_TOY, unetr_pair
from benchmarks.timing import Report, Work, alternate, default_malloc, peak_memory
from voxmim import api
from voxmim.images.grid import Grid
from voxmim.networks.precision import working_dtype
from voxmim.report.run_pictures import prepared_case
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.tasks.segmentation.inference import original_label_map, predict_slabs, prepared_label_map
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.tasks.segmentation.structures import Structures

OVERLAP, CLASSES, WINDOWS = 0.5, 14, 4  # WINDOWS: batch size of MONAI's sliding window


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Measure speed, agreement and memory."""
    crop: Triple = (16, 16, 16) if smoke else (96, 96, 96)
    theirs, ours = unetr_pair(VIT_TOY if smoke else VIT_B, crop, CLASSES)
    image = torch.rand(1, *(crop[0] * 3 // 2 for _ in range(3)))
    sides: dict[str, Work] = {
        "MONAI in float32": default_malloc(lambda: monai_labels(theirs.eval(), image, crop, torch.float32)),
        "MONAI in bf16": default_malloc(lambda: monai_labels(theirs.eval(), image, crop, torch.bfloat16)),
        "our network in MONAI's window, bf16": lambda: monai_labels(ours.eval(), image, crop, torch.bfloat16),
        "ours": lambda: our_labels(ours.eval(), image, crop, CLASSES),
    }
    seconds = alternate(sides, max(1, rounds - 1))
    memory = {name: peak_memory(work) for name, work in sides.items()}
    for other in list(sides)[:3]:
        note = f"peak {memory[other]:.1f} and {memory['ours']:.1f} GiB"
        report.ratio(f"prediction against {other}", seconds[other], seconds["ours"], note)
    report.figure("labels equal to MONAI's", 100 * agreement(smoke), "%", "a trained network, validation scans")
    shape = (40, 40, 60) if smoke else (512, 512, 600)
    for classes in (14, 118):
        peak = peak_memory(lambda classes=classes: large_scan(shape, classes, 16 if smoke else 96))  # type: ignore[misc]
        report.figure(f"peak memory, {classes} classes", peak, "GiB", f"{'x'.join(map(str, shape))}, with the scan")


@torch.no_grad()
def monai_labels(network: nn.Module, image: Tensor, crop: Triple, dtype: torch.dtype) -> Tensor:
    """Predict as in MONAI's tutorials."""
    from monai.inferers import sliding_window_inference

    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits: Any = sliding_window_inference(image[None], crop, WINDOWS, network, OVERLAP, "gaussian")
    return logits[0].argmax(0)


def our_labels(network: nn.Module, image: Tensor, crop: Triple, classes: int) -> np.ndarray:
    """Predict as voxmim does."""
    slabs = predict_slabs(network, image, crop, OVERLAP)
    return prepared_label_map(slabs, (image.shape[1], image.shape[2], image.shape[3]), structures_of(classes))


def structures_of(classes: int) -> Structures:
    """Background and `classes - 1` organs."""
    return Structures({value: f"organ {value}" for value in range(1, classes)}, {}, tuple(range(classes)))


def agreement(smoke: bool) -> float:
    """Fraction of voxels with the same label on both sides."""
    with tempfile.TemporaryDirectory() as name:
        segmentor, store = trained_segmentor(Path(name), *((2, 4, 12.0) if smoke else (150, 8, 6.0)))
        equal = []
        for case in store.labelled("val"):
            scan = prepared_case(store, case, store.image(case.name))
            image = segmentor.image(scan)
            # The softmax makes MONAI sum probabilities, as voxmim does; sums of logits give other labels.
            network = nn.Sequential(segmentor.network, nn.Softmax(dim=1))
            theirs = monai_labels(network, image, segmentor.crop, working_dtype(image.device, "bf16")).numpy()
            values = np.asarray(segmentor.structures.values)
            equal.append((values[theirs] == segmentor.prepared_label_map(scan)).ravel())
    return float(np.mean(np.concatenate(equal)))


def trained_segmentor(folder: Path, steps: int, cases: int, spacing: float) -> tuple[Segmentor, Store]:
    """The default network, trained for some steps on phantoms with this voxel size in mm."""
    source = api.phantom(folder / "source", cases=cases)
    api.prepare(source, folder / "store", spacing=(spacing,) * 3, workers=1, quiet=True)
    settings = {"finetune.steps": steps, "crop": [32, 32, 32], "finetune.validate_every": steps}
    run = api.finetune(folder / "store", folder / "run", settings=settings, quiet=True)
    return Segmentor.load(run, all_components=True), Store(folder / "store")


class Pointwise(nn.Module):
    """A single layer, so that mainly the memory of the sliding window is measured."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, classes, 1).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, volume: Tensor) -> Tensor:
        output: Tensor = self.layer(volume)
        return output.contiguous(memory_format=torch.channels_last_3d)


def large_scan(shape: Triple, classes: int, size: int) -> np.ndarray:
    """Predict a scan of this shape, with windows that do not overlap."""
    grid = Grid(shape, np.eye(4))
    slabs = predict_slabs(Pointwise(classes).eval(), torch.rand(1, *shape), (size, size, size), 0.0)
    return original_label_map(slabs, grid, grid, structures_of(classes))

"""Small stores for the tests of crops, formats and trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from voxmim.store.crops import CropPlan, Crops, Triple
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case

SHAPES: list[Triple] = [(20, 18, 16), (14, 22, 13), (9, 30, 7), (24, 8, 12), (16, 16, 16)]
PLAN = CropPlan(size=(12, 8, 10), window=(-175.0, 250.0), seed=3, labelled=True, foreground=0.5)
VIEWS = replace(PLAN, labelled=False, foreground=0.0, views=0.6)
Voxels = dict[str, tuple[np.ndarray, np.ndarray | None]]


def make_store(path: Path, voxels: Voxels, intensity: str = "ct") -> Store:
    cases = []
    for name, (image, label) in voxels.items():
        x, y, z = image.shape[1:]
        cases.append(write_case(path, Case(name, "train", (x, y, z), (f"{name}.nii.gz",)), image, label))
    channels = tuple(f"c{i}" for i in range(image.shape[0]))
    Index("tiny", Preparation((1.0, 1.0, 2.0), intensity, channels), {1: "large", 2: "small"}, cases).write(path)
    return Store(path)


def noise_voxels() -> Voxels:
    """Scans of two channels of noise, so that a crop shows where it was cut; the last one has no label map."""
    rng, voxels = np.random.default_rng(0), {}
    for i, shape in enumerate(SHAPES):
        label = rng.integers(0, 3, shape).astype(np.uint8) if i < len(SHAPES) - 1 else np.zeros(shape, np.uint8)
        voxels[f"case_{i}"] = rng.integers(-1024, 1500, (2, *shape)).astype(np.int16), label
    return voxels


VOXELS = noise_voxels()


def stream(store: Store, plan: CropPlan = PLAN) -> Crops:
    return Crops(store, list(store.cases.values()), plan)


def same(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


# A store with labels, and one scan without

CT = Preparation((1.5, 1.5, 2.0), "ct", ("CT",))
MR = Preparation((1.0, 1.0, 1.0), "mr", ("T1", "T2"))
SHAPE = (37, 41, 33)


def voxels(preparation: Preparation, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 100, (len(preparation.channels), *shape))
    return raw.astype(np.int16) if preparation.intensity == "ct" else (raw / 100).astype(np.float16)


def labels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[3:20, 5:18, 4:11], array[20:22, 7, 8:10], array[0, 0, 0] = 1, 7, 255
    return array


def make(path: Path, preparation: Preparation = CT, names: tuple[str, ...] = ("a", "b"), **changed: object) -> Store:
    cases = []
    for seed, name in enumerate(names):
        image = voxels(preparation, seed=seed)
        case = Case(name, "train" if seed == 0 else "unlabelled", SHAPE, (f"/scans/{name}.nii.gz",))
        cases.append(write_case(path, case, image, labels() if seed == 0 else None))
    Index("tiny", preparation, {1: "liver", 7: "vessel", 255: "dot"}, cases).write(path)
    return Store(path)

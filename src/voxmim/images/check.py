"""Is a scan or a label map fit to be prepared? Errors refuse it."""

from collections.abc import Collection
from itertools import product
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from voxmim.errors import ScanError
from voxmim.images.grid import Grid, Volume

_FEWEST = 2  # voxels along an axis: fewer make no volume
SAME = 1e-2  # of a voxel: how far apart two corners may lie that should be the same


def check_image(volume: Volume, path: Path) -> None:
    """Raise ScanError where a scan has under 2 voxels along an axis, or a constant channel."""
    if min(volume.shape) < _FEWEST:
        shape = " x ".join(map(str, volume.shape))
        raise ScanError(f"{path}: {shape} voxels make a slice, not a volume; give a 3D scan.", "tiny")
    for index, channel in enumerate(volume.array):
        if channel.min() == channel.max():
            where = f" in channel {index}" if len(volume.array) > 1 else ""
            text = f"{path}: every voxel{where} has the value {channel.flat[0]:g}; leave this scan out."
            raise ScanError(text, "constant")


def grid_offset(grid: Grid, reference: Grid) -> float:
    """How far, in voxels along an axis, a corner of a grid lies off that of another of the same shape."""
    corners = np.array(list(product(*((0, n - 1) for n in grid.shape))))
    there = apply_affine(np.linalg.inv(reference.affine) @ grid.affine, corners)
    return float(np.abs(there - corners).max())


def check_same_grid(grid: Grid, reference: Grid, path: Path, reference_path: Path) -> None:
    """Raise ScanError unless a file has the shape of another, and its corners within a hundredth of a voxel."""
    if grid.shape != reference.shape:
        mine, other = (" x ".join(map(str, shape)) for shape in (grid.shape, reference.shape))
        raise ScanError(
            f"{path}: its shape {mine} differs from {other} of {reference_path.name}; resample it to that grid.",
            "other grid",
        )
    off = grid_offset(grid, reference)
    if off > SAME:
        raise ScanError(
            f"{path}: its affine puts a corner {off:.2g} voxels off that of {reference_path.name}; "
            "copy the header of the one that is right.",
            "other grid",
        )


def check_label_values(label: Volume, path: Path, known: Collection[int] = ()) -> None:
    """Raise ScanError where a label map of one channel has other values than whole numbers from 0 to 255.

    So it does for a value that is not among those that the source lists (`known`, without 0; empty if it lists none).
    """
    values = np.unique(label.array)
    if not np.all(np.isfinite(values)) or np.any(np.rint(values) != values) or values[0] < 0 or values[-1] > 255:
        raise ScanError(
            f"{path}: label values from {values[0]:g} to {values[-1]:g} are not all whole numbers from 0 to 255; "
            "is this a label map?",
            "not integers",
        )
    unknown = sorted({int(value) for value in values} - {0, *known}) if known else []
    if unknown:
        listed = ", ".join(map(str, sorted(known)))
        raise ScanError(
            f"{path}: label value {', '.join(map(str, unknown))} is not listed in dataset.json ({listed}); "
            "list it there or correct the label map.",
            "unknown label",
        )

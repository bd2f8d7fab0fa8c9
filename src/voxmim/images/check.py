"""Checks of scans and label maps before they are prepared."""

from collections.abc import Collection
from itertools import product
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from voxmim.errors import ScanError
from voxmim.images.grid import Grid, Volume

_MIN_VOXELS = 2  # along an axis
SAME = 1e-2  # voxels: the tolerance of corners that should be the same


def check_image(volume: Volume, path: Path) -> None:
    """Raise ScanError if a scan has fewer than 2 voxels along an axis, or a constant channel."""
    if min(volume.shape) < _MIN_VOXELS:
        shape = " x ".join(map(str, volume.shape))
        raise ScanError(f"{path}: {shape} voxels make a slice, not a volume; give a 3D scan.", "tiny")
    for index, channel in enumerate(volume.array):
        if channel.min() == channel.max():
            where = f" in channel {index}" if len(volume.array) > 1 else ""
            text = f"{path}: every voxel{where} has the value {channel.flat[0]:g}; leave this scan out."
            raise ScanError(text, "constant")


def grid_offset(grid: Grid, reference: Grid) -> float:
    """The largest distance, in voxels along an axis, between corners of two grids of the same shape."""
    corners = np.array(list(product(*((0, n - 1) for n in grid.shape))))
    in_reference = apply_affine(np.linalg.inv(reference.affine) @ grid.affine, corners)
    return float(np.abs(in_reference - corners).max())


def check_same_grid(grid: Grid, reference: Grid, path: Path, reference_path: Path) -> None:
    """Raise ScanError unless two files have the same shape, and corners within a hundredth of a voxel."""
    if grid.shape != reference.shape:
        own, other = (" x ".join(map(str, shape)) for shape in (grid.shape, reference.shape))
        raise ScanError(
            f"{path}: its shape {own} differs from {other} of {reference_path.name}; resample it to that grid.",
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
    """Raise ScanError if a label map has values that are not whole numbers from 0 to 255, or that are not `known`.

    `known` are the values that the source lists, without 0; if empty, all are allowed.
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

"""Safe repairs of a label map: rounding errors of values and affines, and axes in another order."""

from pathlib import Path

import numpy as np

from voxmim.findings import Finding
from voxmim.images.check import SAME, grid_offset
from voxmim.images.geometry import ras_axes, reoriented
from voxmim.images.grid import Grid, Volume

_ROUNDING = 0.25  # voxels: a corner that is off by less is a rounding error of the affine
_WHOLE = 1e-3  # a value that is off a whole number by less is a rounding error


def repair_label(label: Volume, grid: Grid | None, path: Path) -> tuple[Volume, list[Finding]]:
    """Repair a label map (1, X, Y, Z) for a scan on this grid; without a grid, only its values.

    Returns the label map, and a finding on each repair.
    """
    findings = []
    if label.array.dtype.kind == "f":
        nearest = np.rint(label.array)
        off = float(np.abs(nearest - label.array).max())
        if 0 < off <= _WHOLE:
            label = Volume(nearest, label.affine)
            text = f"its label values are up to {off:.1g} off whole numbers, and are rounded."
            findings.append(Finding.of(path, "not integers", text, "repaired"))
    if grid is not None:
        reordered = _on_axes_of(grid, label)
        if reordered is not None:
            label = reordered
            text = "its axes run another way than its scan's, and are turned; no voxel moves."
            findings.append(Finding.of(path, "other axes", text, "repaired"))
        elif label.shape == grid.shape and SAME < (off := grid_offset(Grid.of(label), grid)) <= _ROUNDING:
            label = Volume(label.array, grid.affine)
            text = f"its affine puts a corner {off:.2g} voxels off that of its scan, whose affine is taken."
            findings.append(Finding.of(path, "other grid", text, "repaired"))
    return label, findings


def _on_axes_of(grid: Grid, label: Volume) -> Volume | None:
    """The label map on the scan's axes, if its voxels are those of the scan in another order; else None."""
    order, signs = ras_axes(np.linalg.inv(grid.affine) @ label.affine)
    if (order, signs) == ((0, 1, 2), (1, 1, 1)):
        return None
    volume = reoriented(label, order, signs)
    return volume if volume.shape == grid.shape and grid_offset(Grid.of(volume), grid) <= SAME else None

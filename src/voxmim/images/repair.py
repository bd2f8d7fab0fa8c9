"""What of a label map can be mended without guessing: values and affines off by rounding, axes that run another way."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from voxmim.findings import Finding
from voxmim.images.check import SAME, check_label, grid_offset
from voxmim.images.grid import Grid, Volume
from voxmim.images.volume import open_image

_ROUNDING = 0.25  # of a voxel: how far a corner may lie off for its affine to be taken for the scan's, badly rounded
_WHOLE = 1e-3  # how far a value may lie off a whole number


def fitting_label(path: Path, grid: Grid, image_path: Path, known: Collection[int] = ()) -> np.ndarray:
    """Read a label map, mended where it can be, on the grid of its scan: (X, Y, Z) uint8.

    Raises:
        ScanError: see `check_label`.
    """
    label, _ = mend_label(open_image(path).read_label(grid), grid, path)
    check_label(label, grid, path, image_path, known)
    return label.array[0].astype(np.uint8)


def mend_label(label: Volume, grid: Grid | None, path: Path) -> tuple[Volume, list[Finding]]:
    """Mend a label map (1, X, Y, Z) for a scan of this grid (or, where that is not known, its values alone).

    What cannot be mended stays as it is. Returns the label map, and what was mended.
    """
    findings = []

    def told(kind: str, text: str) -> None:
        findings.append(Finding(str(path), kind, f"{path}: {text}", "repaired"))

    if label.array.dtype.kind == "f":
        nearest = np.rint(label.array)
        off = float(np.abs(nearest - label.array).max())
        if 0 < off <= _WHOLE:
            label = Volume(nearest, label.affine)
            told("not integers", f"its label values are up to {off:.1g} off whole numbers, and are rounded.")
    if grid is not None:
        turned = _turned(label, grid)
        if turned is not None:
            label = turned
            told("other axes", "its axes run another way than its scan's, and are turned; no voxel moves in the world.")
        elif label.shape == grid.shape and SAME < (off := grid_offset(Grid.of(label), grid)) <= _ROUNDING:
            label = Volume(label.array, grid.affine)
            told(
                "other grid", f"its affine puts a corner {off:.2g} voxels off that of its scan, whose affine is taken."
            )
    return label, findings


def _turned(label: Volume, grid: Grid) -> Volume | None:
    """The label map on the scan's axes, if its voxels are those of the scan in another order; else None."""
    to_scan = np.linalg.inv(grid.affine) @ label.affine
    turn = np.rint(to_scan[:3, :3])
    if np.array_equal(turn, np.eye(3)) or not np.array_equal(np.abs(turn).sum(axis=0), np.ones(3)):
        return None
    order = np.abs(turn).argmax(axis=1)  # the label's axis for each axis of the scan
    if len(set(order)) < 3 or tuple(label.shape[axis] for axis in order) != grid.shape:
        return None
    signs = [int(turn[axis, own]) for axis, own in enumerate(order)]
    array = label.array.transpose(0, *(1 + axis for axis in order))
    array = array[(slice(None), *(slice(None, None, sign) for sign in signs))]
    start = np.array([0 if sign > 0 else n - 1 for sign, n in zip(signs, grid.shape, strict=True)])
    affine = label.affine @ _inverse_of_turn(order, signs, start)
    found = Volume(np.ascontiguousarray(array), affine)
    return found if grid_offset(Grid.of(found), grid) <= SAME else None


def _inverse_of_turn(order: np.ndarray, signs: list[int], start: np.ndarray) -> np.ndarray:
    """(4, 4) from an index on the scan's axes to one on the label's own."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, (own, sign) in enumerate(zip(order, signs, strict=True)):
        turn[own, axis] = sign
        turn[own, 3] = start[axis]
    return turn

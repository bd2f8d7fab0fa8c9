"""Stacking slices to a volume: their order, spacing, and faults such as missing slices."""

from dataclasses import dataclass

import numpy as np

_SAME = 0.01  # mm: slices nearer to each other are at the same position
_EVEN = 0.01  # tolerance of a step, as a fraction of the spacing
_ROUNDED = 0.1  # tolerance of positions that were rounded when written, as a fraction of the spacing


@dataclass(frozen=True, eq=False)
class Stack:
    """The order of slices along their normal."""

    order: tuple[int, ...]  # indices of the slices in order, without duplicates
    duplicates: tuple[tuple[int, int], ...] = ()  # (index that is kept, index that is not) of slices at one position
    spacing: float = 1.0  # mm between slices
    fault: str | None = None  # why they make no volume, or None; ``{0}`` and ``{1}`` are the names of `where`
    where: tuple[int, int] = (0, 0)  # the two slices of the fault


def stack(positions: np.ndarray, normal: np.ndarray, pixel: float) -> Stack:
    """Order slices by the positions of their first voxels (N, 3) in mm along the unit vector `normal`, and check them.

    `pixel` is the smaller side of a voxel within a slice in mm.
    """
    heights = positions @ normal
    order: list[int] = []
    duplicates = []
    for index in np.argsort(heights, kind="stable").tolist():
        if order and np.linalg.norm(positions[index] - positions[order[-1]]) < min(_SAME, pixel / 2):
            duplicates.append((order[-1], index))
        else:
            order.append(index)
    if len(order) < 2:
        return Stack(tuple(order), tuple(duplicates), fault="it has one slice only")
    rounding = _rounding(positions) * float(np.abs(normal).sum())
    fault, where = _uneven(heights[order], rounding) or _tilted(positions[order], normal, pixel) or (None, 0)
    spacing = float(heights[order[-1]] - heights[order[0]]) / (len(order) - 1)
    return Stack(tuple(order), tuple(duplicates), spacing, fault, (order[where], order[where + 1]))


def _rounding(positions: np.ndarray) -> float:
    """The rounding error of positions: half a unit of their last decimal."""
    positions = positions[:, np.ptp(positions, axis=0) > 1e-6]
    for digits in range(1, 6):
        if np.allclose(np.round(positions, digits), positions, rtol=0, atol=1e-9):
            return float(0.5 * 10.0**-digits)
    return 0.0


def _uneven(heights: np.ndarray, rounding: float) -> tuple[str, int] | None:
    """The fault of uneven gaps between slices, and the index of the first."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    allowed = max(min(_SAME, _ROUNDED * usual), _EVEN * usual)
    odd = np.flatnonzero(np.abs(gaps - usual) > allowed)
    index = np.arange(len(heights))
    off = np.abs(heights - np.polyval(np.polyfit(index, heights, 1), index)).max()
    if not len(odd) or off <= min(1.5 * rounding, _ROUNDED * usual):
        return None
    times = np.rint(gaps / max(usual, 1e-9))
    if np.all(times >= 1) and np.all(np.abs(gaps - times * usual) <= times * allowed):
        missing = int(np.sum(times - 1))
        slices = f"{missing} of {missing + len(gaps) + 1} slices"
        return f"{slices} {'is' if missing == 1 else 'are'} missing, first between {{0}} and {{1}}", int(odd[0])
    low, high = gaps.min(), gaps.max()
    return f"its slices lie {low:.3g} to {high:.3g} mm apart, first unevenly between {{0}} and {{1}}", int(odd[0])


def _tilted(positions: np.ndarray, normal: np.ndarray, pixel: float) -> tuple[str, int] | None:
    """The fault of slices that are shifted against each other, and the index of the largest shift."""
    moved = positions - positions[0]
    aside = moved - np.outer(moved @ normal, normal)
    if np.linalg.norm(aside, axis=1).max() <= max(_SAME, pixel / 2):
        return None
    steps = np.diff(aside, axis=0)
    mean = steps.mean(axis=0)
    off = np.linalg.norm(steps - mean, axis=1)
    if off.max() > max(2 * _SAME, 0.1 * np.linalg.norm(mean)):
        return "its slices are shifted against each other, most between {0} and {1}", int(off.argmax())
    angle = np.degrees(np.arctan2(np.linalg.norm(aside[-1]), moved[-1] @ normal))
    return f"the gantry was tilted by {angle:.1f} degrees, which shears the volume", 0

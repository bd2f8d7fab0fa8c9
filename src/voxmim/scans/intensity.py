"""Intensities: what a scan's values become in a store, what a network sees of them, and the way back.

CT keeps its Hounsfield units, and a window is applied when a crop is read. MR has no units: each channel of each scan
becomes a z-score over its foreground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

HU_RANGE = (-1024, 3071)
_Z_LIMIT = 10.0  # standard deviations; float16 holds them to 1/128
BODY_HU = -500
_FLAT = 1e-3  # of the intensity range: what differs by less is the same background


@dataclass(frozen=True)
class Intensity:
    """The rule for one channel of one scan, and its inverse.

    Attributes:
        kind: ``ct`` or ``mr``.
        centre: the scan's value that becomes 0 (MR).
        scale: the scan's units that become 1 (MR).
    """

    kind: str
    centre: float = 0.0
    scale: float = 1.0

    def apply(self, array: np.ndarray) -> np.ndarray:
        """From the scan's own units to stored values: int16 HU for CT, float16 z-scores for MR."""
        if self.kind == "ct":
            return np.rint(np.clip(array, *HU_RANGE)).astype(np.int16)
        scaled = (array.astype(np.float32) - np.float32(self.centre)) / np.float32(self.scale)
        return np.clip(scaled, -_Z_LIMIT, _Z_LIMIT).astype(np.float16)

    def invert(self, array: np.ndarray) -> np.ndarray:
        """From stored values to float32 in the scan's own units (what was clipped stays so)."""
        return array.astype(np.float32) * np.float32(self.scale) + np.float32(self.centre)


def fit_intensity(kind: str, array: np.ndarray) -> Intensity:
    """The rule for one channel (X, Y, Z): for MR, mean and deviation of the foreground between its 0.5 and 99.5 %.

    Foreground is what differs from a constant background where there is one (a stripped skull, a padded volume), and
    otherwise what exceeds a tenth of the range, which leaves noisy air out and takes a crop of tissue nearly whole.
    """
    if kind == "ct":
        return Intensity("ct")
    low, high = np.percentile(array, (0.5, 99.5))
    flat = _constant_background(array)
    inside = array[~flat] if flat is not None else array[array > low + 0.1 * (high - low)]
    if not inside.size:
        inside = array.ravel()
    clipped = np.clip(inside, *np.percentile(inside, (0.5, 99.5))).astype(np.float64)
    deviation = float(clipped.std()) or float(array.std()) or 1.0
    return Intensity("mr", float(clipped.mean()), deviation)


def foreground_box(kind: str, image: np.ndarray, margin: int = 2) -> tuple[slice, slice, slice]:
    """The box round the foreground of a resampled scan (C, X, Y, Z) in its own units, with a margin in voxels.

    CT: every body over -500 HU that has at least a tenth of the largest one's voxels (the table is none). MR: what
    differs from a constant background in any channel. The whole scan where nothing can be told.
    """
    inside = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        if kind == "ct":
            inside |= _bodies(channel > BODY_HU)
        else:
            flat = _constant_background(channel)
            inside |= True if flat is None else ~flat
    whole = np.ones(image.shape[1:], dtype=bool) if not inside.any() else inside
    box = []
    for axis in range(3):
        found = np.flatnonzero(whole.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(0, int(found[0]) - margin), min(whole.shape[axis], int(found[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def window(array: np.ndarray, kind: str, bounds: tuple[float, float]) -> np.ndarray:
    """Stored values as a network sees them, float32: for CT the HU between `bounds` become 0..1, for MR as they are."""
    seen = array.astype(np.float32)
    if kind == "ct":
        low, high = bounds
        seen -= np.float32(low)
        seen *= np.float32(1 / (high - low))
        np.clip(seen, 0, 1, out=seen)
    return seen


def unwindow(array: np.ndarray, kind: str, bounds: tuple[float, float]) -> np.ndarray:
    """The inverse of `window` (but for what was clipped): float32 HU for CT, z-scores for MR."""
    if kind == "ct":
        low, high = bounds
        return array.astype(np.float32) * np.float32(high - low) + np.float32(low)
    return array.astype(np.float32)


def _constant_background(array: np.ndarray) -> np.ndarray | None:
    """Where a channel equals its constant background: the one value of most voxels on the volume's six faces."""
    faces = np.concatenate([array[s].ravel() for axis in range(3) for s in _faces(axis)])
    low, high = np.percentile(array, (0.5, 99.5))
    reach = _FLAT * (high - low)
    value = np.median(faces)
    if np.mean(np.abs(faces - value) <= reach) < 0.5:
        return None
    return np.abs(array - value) <= reach


def _faces(axis: int) -> list[tuple[slice | int, ...]]:
    return [(*(slice(None),) * axis, end) for end in (0, -1)]


def _bodies(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return (sizes >= 0.1 * sizes.max())[components]

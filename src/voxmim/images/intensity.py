"""Intensities: what a scan's values become in a store, what a network sees of them, and the way back.

CT keeps its Hounsfield units, and a window is applied when a crop is read. MR has no units: each channel of each scan
becomes a z-score over its foreground (arXiv 2204.11716, section 4: over non-zero voxels). A constant background becomes
0, the value that padding and missing channels have, so that a padded rim looks like background.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

HU_RANGE = (-1024, 3071)
_Z_LIMIT = 10.0  # standard deviations; float16 holds them to 1/128
_NEARLY_ZERO = np.float16(2**-14)  # what a foreground voxel of exactly the mean becomes, so that 0 is background only
BODY_HU = -500
Box = tuple[tuple[int, int], ...]  # first voxel and end along X, Y, Z
_FLAT = 1e-3  # of the intensity range: what differs by less is the same background


@dataclass(frozen=True)
class Intensity:
    """The rule for one channel of one scan, and its inverse."""

    kind: str  # ``ct`` or ``mr``
    centre: float = 0.0  # the scan's value that becomes 0 (MR)
    scale: float = 1.0  # the scan's units that become 1 (MR)
    # bounds of the values that become 0 (MR); None where there is no constant background
    background: tuple[float, float] | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """From the scan's own units to stored values: int16 HU for CT, float16 z-scores for MR."""
        if self.kind == "ct":
            clipped = np.clip(array, *HU_RANGE)
            return (np.rint(clipped, out=clipped) if clipped.dtype.kind == "f" else clipped).astype(np.int16)
        scaled = np.subtract(array, np.float32(self.centre), dtype=np.float32)
        scaled /= np.float32(self.scale)
        stored = np.clip(scaled, -_Z_LIMIT, _Z_LIMIT, out=scaled).astype(np.float16)
        if self.background is not None:
            stored[stored == 0] = _NEARLY_ZERO
            stored[_within(array, *self.background)] = 0
        return stored

    def invert(self, array: np.ndarray) -> np.ndarray:
        """From stored values to float32 in the scan's own units (what was clipped stays so)."""
        units = array.astype(np.float32) * np.float32(self.scale) + np.float32(self.centre)
        if self.background is not None:
            units[array == 0] = np.float32(sum(self.background) / 2)
        return units


def fit_intensity(kind: str, array: np.ndarray, zero_background: bool = True) -> Intensity:
    """The rule for one channel (X, Y, Z): for MR, mean and std of the foreground, clipped to its 0.5 and 99.5 %.

    Foreground is what differs from a constant background where there is one (a stripped skull, a padded volume), and
    otherwise what exceeds a tenth of the range, which leaves noisy air out and takes a crop of tissue nearly whole.
    `zero_background` sets a constant background to 0; stores of before scale it as they scale tissue.
    """
    if kind == "ct":
        return Intensity("ct")
    background = _constant_background(array)
    array = thinned(array)
    low, high = np.percentile(array, (0.5, 99.5))
    inside = array[array > low + 0.1 * (high - low)] if background is None else array[~_within(array, *background)]
    if not inside.size:
        inside = array.ravel()
    clipped = np.clip(inside, *np.percentile(inside, (0.5, 99.5))).astype(np.float64)
    std = float(clipped.std()) or float(array.std()) or 1.0
    return Intensity("mr", float(clipped.mean()), std, background if zero_background else None)


def foreground_box(kind: str, image: np.ndarray, margin: int = 2) -> tuple[slice, slice, slice]:
    """The box round the foreground of a resampled scan (C, X, Y, Z) in its own units, with a margin in voxels.

    CT: every body over -500 HU that has at least a tenth of the largest one's voxels (the table is none). MR: what
    differs from a constant background in any channel. The entire scan where neither is found.
    """
    found = [box for channel in image for box in (_bodies(channel) if kind == "ct" else _not_flat(channel))]
    if not found:
        found = [tuple((0, n) for n in image.shape[1:])]
    low, high = np.min(found, axis=0)[:, 0] - margin, np.max(found, axis=0)[:, 1] + margin
    x, y, z = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, image.shape[1:], strict=True))
    return x, y, z


def window(array: np.ndarray, kind: str, bounds: tuple[float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Stored values as a network sees them, float32: for CT the HU between `bounds` become 0..1, for MR as they are.

    They are written into `out`, a float32 array of the same shape, if it is given.
    """
    low, high = bounds if kind == "ct" else (0.0, 1.0)
    seen = np.subtract(array, np.float32(low), dtype=np.float32, out=out)
    if kind != "ct":
        return seen
    seen *= np.float32(1 / (high - low))
    return np.clip(seen, 0, 1, out=seen)


def unwindow(array: np.ndarray, kind: str, bounds: tuple[float, float]) -> np.ndarray:
    """The inverse of `window` (but for what was clipped): float32 HU for CT, z-scores for MR."""
    if kind == "ct":
        low, high = bounds
        return array.astype(np.float32) * np.float32(high - low) + np.float32(low)
    return array.astype(np.float32)


def _constant_background(array: np.ndarray) -> tuple[float, float] | None:
    """Bounds of a channel's constant background: the one value of most voxels on the volume's six faces."""
    faces = np.concatenate([np.take(array, (0, -1), axis).ravel() for axis in range(3)])
    low, high = np.percentile(thinned(array), (0.5, 99.5))
    reach = _FLAT * (high - low)
    value = np.median(faces)
    if np.mean(np.abs(faces - value) <= reach) < 0.5:
        return None
    return float(value - reach), float(value + reach)


def _within(array: np.ndarray, low: float, high: float) -> np.ndarray:
    return (array >= low) & (array <= high)


def thinned(array: np.ndarray, enough: int = 1 << 24) -> np.ndarray:
    """Every voxel (X, Y, Z), or every n-th along each axis where there are more than enough."""
    step = max(1, int(np.ceil((array.size / enough) ** (1 / 3))))
    return array[::step, ::step, ::step]


def _bodies(channel: np.ndarray) -> list[Box]:
    """The boxes of what is connected and denser than air, but for what is small."""
    mask = (channel > BODY_HU).astype(np.uint8)
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0))))
    by_size = sitk.RelabelComponentImageFilter()  # the largest is 1
    components = by_size.Execute(components)
    sizes = by_size.GetSizeOfObjectsInPixels()
    large = sum(size >= 0.1 * sizes[0] for size in sizes)
    measured = sitk.LabelShapeStatisticsImageFilter()
    measured.ComputePerimeterOff()
    measured.Execute(sitk.Threshold(components, upper=large) if len(sizes) > large else components)
    boxes = [np.reshape(measured.GetBoundingBox(label), (2, 3)) for label in measured.GetLabels()]  # starts, extents
    return [tuple((int(start), int(start + extent)) for start, extent in box.T) for box in boxes]


def _not_flat(channel: np.ndarray) -> list[Box]:
    """The box of what differs from a constant background; the whole channel where there is none."""
    background = _constant_background(channel)
    if background is None:
        return [tuple((0, n) for n in channel.shape)]
    flat = _within(channel, *background)
    axes = [np.flatnonzero(~flat.all(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [tuple((int(found[0]), int(found[-1]) + 1) for found in axes)] if len(axes[0]) else []

"""Intensities in a scan's file, in a store and in a network's input, and the conversions between them.

CT is stored in Hounsfield units; a window is applied when a crop is read. MR has no units: each channel of each scan is
stored as a z-score over its foreground (arXiv 2204.11716, section 4: over non-zero voxels). A constant background
becomes 0, as padding and missing channels.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

HU_RANGE = (-1024, 3071)
_Z_LIMIT = 10.0  # standard deviations; float16 represents them to 1/128
_NEARLY_ZERO = np.float16(2**-14)  # replaces 0 in the foreground, so that 0 is always background
BODY_HU = -500
Box = tuple[tuple[int, int], ...]  # first voxel and end along X, Y, Z
_FLAT = 1e-3  # tolerance of a constant background, as a fraction of the intensity range


@dataclass(frozen=True)
class Intensity:
    """The normalisation of one channel of one scan, and its inverse."""

    kind: str  # ``ct`` or ``mr``
    centre: float = 0.0  # mean (MR)
    scale: float = 1.0  # std (MR)
    background: tuple[float, float] | None = None  # bounds of a constant background, which becomes 0 (MR)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """From the scan's units to stored values: int16 HU for CT, float16 z-scores for MR."""
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
        """From stored values to float32 in the scan's units; clipped values stay clipped."""
        units = array.astype(np.float32) * np.float32(self.scale) + np.float32(self.centre)
        if self.background is not None:
            units[array == 0] = np.float32(sum(self.background) / 2)
        return units


def fit_intensity(kind: str, array: np.ndarray, zero_background: bool = True) -> Intensity:
    """The normalisation of one channel (X, Y, Z): for MR, mean and std of the foreground, clipped to its 0.5 to 99.5 %.

    Foreground is what differs from a constant background if there is one (skull-stripped or padded scans), and
    otherwise what exceeds a tenth of the intensity range, which excludes noisy air and includes most tissue.
    `zero_background` sets a constant background to 0; older stores scale it like tissue.
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
    """The bounding box of the foreground of a resampled scan (C, X, Y, Z) in its own units, with a margin in voxels.

    CT: every connected component above -500 HU that has at least a tenth of the largest one's voxels, which excludes
    the table. MR: what differs from a constant background in any channel. If there is no foreground, the whole scan.
    """
    boxes = [box for channel in image for box in (_bodies(channel) if kind == "ct" else _not_flat(channel))]
    if not boxes:
        boxes = [tuple((0, n) for n in image.shape[1:])]
    low, high = np.min(boxes, axis=0)[:, 0] - margin, np.max(boxes, axis=0)[:, 1] + margin
    x, y, z = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, image.shape[1:], strict=True))
    return x, y, z


def window(array: np.ndarray, kind: str, bounds: tuple[float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Convert stored values to a network's float32 input: HU between `bounds` become 0..1 in CT, MR is unchanged.

    The result is written into `out`, a float32 array of the same shape, if it is given.
    """
    low, high = bounds if kind == "ct" else (0.0, 1.0)
    result = np.subtract(array, np.float32(low), dtype=np.float32, out=out)
    if kind != "ct":
        return result
    result *= np.float32(1 / (high - low))
    return np.clip(result, 0, 1, out=result)


def unwindow(array: np.ndarray, kind: str, bounds: tuple[float, float]) -> np.ndarray:
    """The inverse of `window`, except for clipped values: float32 HU for CT, z-scores for MR."""
    if kind == "ct":
        low, high = bounds
        return array.astype(np.float32) * np.float32(high - low) + np.float32(low)
    return array.astype(np.float32)


def _constant_background(array: np.ndarray) -> tuple[float, float] | None:
    """Bounds of a channel's constant background, the value of most voxels on the volume's six faces; None without."""
    faces = np.concatenate([np.take(array, (0, -1), axis).ravel() for axis in range(3)])
    low, high = np.percentile(thinned(array), (0.5, 99.5))
    tolerance = _FLAT * (high - low)
    value = np.median(faces)
    if np.mean(np.abs(faces - value) <= tolerance) < 0.5:
        return None
    return float(value - tolerance), float(value + tolerance)


def _within(array: np.ndarray, low: float, high: float) -> np.ndarray:
    return (array >= low) & (array <= high)


def thinned(array: np.ndarray, enough: int = 1 << 24) -> np.ndarray:
    """All voxels (X, Y, Z), or every n-th along each axis if there are more than `enough`."""
    step = max(1, int(np.ceil((array.size / enough) ** (1 / 3))))
    return array[::step, ::step, ::step]


def _bodies(channel: np.ndarray) -> list[Box]:
    """The bounding boxes of large connected components that are denser than air."""
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
    """The bounding box of what differs from a constant background; without one, that of the whole channel."""
    background = _constant_background(channel)
    if background is None:
        return [tuple((0, n) for n in channel.shape)]
    flat = _within(channel, *background)
    axes = [np.flatnonzero(~flat.all(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [tuple((int(planes[0]), int(planes[-1]) + 1) for planes in axes)] if len(axes[0]) else []

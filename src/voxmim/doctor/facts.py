"""Statistics of a scan, measured when it is read, to compare it with others without reading it again."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import scipy

from voxmim.images.geometry import to_ras
from voxmim.images.grid import Volume
from voxmim.images.intensity import thinned

PERCENTILES = (0.0, 0.5, 25.0, 50.0, 75.0, 99.5, 100.0)
COARSE = (6, 6, 6)
_SUBSAMPLE = 1 << 21  # voxels that percentiles are taken from


class LabelFacts(NamedTuple):
    """The volume of a label in mm3, and its centre as fractions of the scan's extent along R, A, S."""

    volume: float
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class Facts:
    """Statistics of a scan, along the axes right, anterior, superior."""

    shape: tuple[int, int, int]  # voxels
    spacing: tuple[float, float, float]  # voxel size in mm
    orientation: str  # of the file's axes, such as ``LPS``
    whole: bool  # whether all values are whole numbers
    percentiles: tuple[tuple[float, ...], ...]  # `PERCENTILES` of each channel
    overview: str  # the first channel on a grid of 6 x 6 x 6, as 0..255 in base 64; see `coarse`
    content: str  # hash of all voxels, independent of the file's format, dtype and axes
    labels: dict[int, LabelFacts] = field(default_factory=dict)  # by value, without background

    def coarse(self) -> np.ndarray:
        """The overview of the first channel, (6, 6, 6) float."""
        return np.frombuffer(b64decode(self.overview), np.uint8).reshape(COARSE).astype(float)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Facts":
        """The inverse of ``dataclasses.asdict``, also from JSON."""
        labels = {int(value): LabelFacts(volume, tuple(centre)) for value, (volume, centre) in values["labels"].items()}
        tuples = {key: tuple(values[key]) for key in ("shape", "spacing")}
        return cls(**{**values, **tuples, "percentiles": tuple(map(tuple, values["percentiles"])), "labels": labels})


def measure(image: Volume, label: np.ndarray | None = None) -> Facts:
    """Measure a scan (C, X, Y, Z) and its label map (X, Y, Z) uint8 on the same grid, if there is one."""
    ras = to_ras(image)
    x, y, z = (round(float(size), 5) for size in ras.spacing)
    percentiles = [_percentiles(channel) for channel in ras.array]
    whole = ras.array.dtype.kind in "iub" or all(
        bool(np.all(np.rint(plane) == plane)) for channel in ras.array for plane in channel.T
    )
    return Facts(
        shape=ras.shape,
        spacing=(x, y, z),
        orientation="".join(nib.aff2axcodes(image.affine)),
        whole=whole,
        percentiles=tuple(percentiles),
        overview=_overview(ras.array[0], percentiles[0][1], percentiles[0][-2]),
        content=_content(ras.array, whole),
        labels={} if label is None else _labels(to_ras(Volume(label[None], image.affine))),
    )


def _percentiles(channel: np.ndarray) -> tuple[float, ...]:
    inner = np.percentile(thinned(channel, _SUBSAMPLE), PERCENTILES[1:-1])
    return tuple(float(f"{value:.6g}") for value in (channel.min(), *inner, channel.max()))


def _overview(channel: np.ndarray, low: float, high: float) -> str:
    """The means of 6 x 6 x 6 boxes, scaled from low..high to 0..255; the boxes of a thin scan overlap."""
    scaled = np.clip((thinned(channel, _SUBSAMPLE).astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    for axis, count in enumerate(COARSE):
        length = scaled.shape[axis]
        bounds = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        slabs = [scaled.take(range(start, stop), axis=axis).mean(axis=axis) for start, stop in bounds]
        scaled = np.stack(slabs, axis=axis)
    return b64encode(np.rint(255 * scaled).astype(np.uint8).tobytes()).decode()


def _content(array: np.ndarray, whole: bool) -> str:
    """A hash of the values, independent of their dtype."""
    small = whole and array.min() >= -(1 << 15) and array.max() < 1 << 15
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=12)
    for channel in array:
        for plane in channel.T:  # contiguous in memory
            values = np.ascontiguousarray(plane, dtype=np.int16 if small else np.float32)
            digest.update(values.data if small else np.add(values, 0, dtype=np.float32).data)  # -0 becomes 0
    return digest.hexdigest()


def _labels(label: Volume) -> dict[int, LabelFacts]:
    array, voxel = label.array[0], float(np.prod(label.spacing))
    facts = {}
    for value, bounds in enumerate(scipy.ndimage.find_objects(array.T), start=1):  # transposed to memory order
        if bounds is None:
            continue
        box = bounds[::-1]
        mask = array[box] == value
        count, centre = int(np.count_nonzero(mask)), []
        for axis, part in enumerate(box):
            profile = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
            middle = float(profile @ np.arange(part.start, part.stop)) / count
            centre.append(round((middle + 0.5) / array.shape[axis], 4))
        facts[value] = LabelFacts(round(count * voxel, 3), (centre[0], centre[1], centre[2]))
    return facts

"""From voxels to the facts that are noted of a scan."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import numpy as np
from scipy.ndimage import find_objects

from voxmim.doctor.facts import COARSE, PERCENTILES, Facts, LabelFacts
from voxmim.images.geometry import ras_axes, to_ras
from voxmim.images.volume import Volume

_ENOUGH = 1 << 21  # voxels that percentiles are taken from
_LETTERS = ("LR", "PA", "IS")


def orientation(affine: np.ndarray) -> str:
    """Where the voxel axes point, as ``LPS`` for left, posterior, superior."""
    order, signs = ras_axes(affine)
    letters = {voxel: _LETTERS[world][sign > 0] for world, (voxel, sign) in enumerate(zip(order, signs, strict=True))}
    return letters[0] + letters[1] + letters[2]


def measure(image: Volume, label: np.ndarray | None = None) -> Facts:
    """The facts of a scan (C, X, Y, Z) and its label map (X, Y, Z) uint8 on the same grid, if there is one."""
    ras = to_ras(image)
    x, y, z = (round(float(size), 5) for size in ras.spacing)
    percentiles = [_percentiles(channel) for channel in ras.array]
    whole = ras.array.dtype.kind in "iub" or all(
        bool(np.all(np.rint(plane) == plane)) for channel in ras.array for plane in channel.T
    )
    return Facts(
        shape=ras.shape,
        spacing=(x, y, z),
        orientation=orientation(image.affine),
        whole=whole,
        percentiles=tuple(percentiles),
        overview=_overview(ras.array[0], percentiles[0][1], percentiles[0][-2]),
        content=_content(ras.array, whole),
        labels={} if label is None else _labels(to_ras(Volume(label[None], image.affine))),
    )


def _thinned(channel: np.ndarray) -> np.ndarray:
    """Every n-th voxel along each axis, so that enough are left."""
    step = max(1, int(np.ceil((channel.size / _ENOUGH) ** (1 / 3))))
    return channel[::step, ::step, ::step]


def _percentiles(channel: np.ndarray) -> tuple[float, ...]:
    inner = np.percentile(_thinned(channel), PERCENTILES[1:-1])
    return tuple(float(f"{value:.6g}") for value in (channel.min(), *inner, channel.max()))


def _overview(channel: np.ndarray, low: float, high: float) -> str:
    """The means of 6 x 6 x 6 boxes between two values, which become 0 and 255; boxes of a thin scan share voxels."""
    seen = np.clip((_thinned(channel).astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    for axis, count in enumerate(COARSE):
        length = seen.shape[axis]
        bounds = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        slabs = [seen.take(range(start, stop), axis=axis).mean(axis=axis) for start, stop in bounds]
        seen = np.stack(slabs, axis=axis)
    return b64encode(np.rint(255 * seen).astype(np.uint8).tobytes()).decode()


def _content(array: np.ndarray, whole: bool) -> str:
    """The same for the same values, whatever type the file holds them in."""
    small = whole and array.min() >= -(1 << 15) and array.max() < 1 << 15
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=12)
    for channel in array:
        for plane in channel.T:  # which lie together in memory
            values = np.ascontiguousarray(plane, dtype=np.int16 if small else np.float32)
            digest.update(values.data if small else np.add(values, 0, dtype=np.float32).data)  # -0 becomes 0
    return digest.hexdigest()


def _labels(label: Volume) -> dict[int, LabelFacts]:
    array, voxel = label.array[0], float(np.prod(label.spacing))
    found = {}
    for value, place in enumerate(find_objects(array.T), start=1):  # turned, as the bytes of a file lie
        if place is None:
            continue
        box = place[::-1]
        mask = array[box] == value
        count, centre = int(np.count_nonzero(mask)), []
        for axis, part in enumerate(box):
            profile = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
            middle = float(profile @ np.arange(part.start, part.stop)) / count
            centre.append(round((middle + 0.5) / array.shape[axis], 4))
        found[value] = LabelFacts(round(count * voxel, 3), (centre[0], centre[1], centre[2]))
    return found

"""Orientation and resampling.

Resampling is done in index space: with the affines A of the old grid and B of the new one, the voxel j of the new grid
is at index inv(A) @ B @ j of the old one. So oblique, flipped and anisotropic scans need no special cases.
"""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Literal

import numpy as np
import scipy
import SimpleITK as sitk
from nibabel.affines import apply_affine

from voxmim.images.grid import Grid, Spacing, Volume

_KEPT = 0.1  # voxels: an axis whose length would change by less is not resampled
_DOWN = 1.5  # if the voxel size grows by a larger factor, voxels are smoothed first to avoid aliasing
_FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian of sigma 1
_ALIGNED = 1e-3  # voxels: grids whose axes differ by less over their whole length have the same axes
_SLAB = 2**23  # voxels that are interpolated at once
_MARGIN = 2  # voxels around a label's bounding box


def ras_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The voxel axis nearest to each world axis (right, anterior, superior), and its sign, +1 or -1."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = max(permutations(range(3)), key=lambda order: sum(abs(directions[w, v]) for w, v in enumerate(order)))
    a, b, c = (1 if directions[w, v] >= 0 else -1 for w, v in enumerate((x, y, z)))
    return (x, y, z), (a, b, c)


def to_ras(volume: Volume) -> Volume:
    """Permute and flip the axes to the nearest RAS+ orientation, without interpolation."""
    return reoriented(volume, *ras_axes(volume.affine))


def reoriented(volume: Volume, order: Sequence[int], signs: Sequence[int]) -> Volume:
    """The volume with its axes in this order, reversed if the sign is -1; voxels keep their world positions."""
    array = volume.array.transpose(0, *(1 + v for v in order))[(slice(None), *(slice(None, None, s) for s in signs))]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        turn[old, 3] = 0 if sign > 0 else volume.shape[old] - 1
    return Volume(array, volume.affine @ turn)


def resampled_grid(grid: Grid, spacing: Spacing) -> Grid:
    """A grid with another voxel size, over the same field of view and with the same directions.

    The outer edges of the first voxels coincide; at the other end the new voxels cover the old ones to within a tenth
    of a new voxel, and extend beyond by less than one. An axis whose length would change by less than a tenth of a
    voxel is kept, so that rounded spacings need no interpolation.
    """
    affine, shape, start = grid.affine.copy(), [], np.zeros(3)
    for axis, (count, old, new) in enumerate(zip(grid.shape, grid.spacing, spacing, strict=True)):
        ratio = new / old
        if abs(count / ratio - count) < _KEPT:
            shape.append(count)
            continue
        shape.append(max(1, int(np.ceil(count / ratio - _KEPT))))
        affine[:3, axis] *= ratio
        start[axis] = (ratio - 1) / 2  # old index of the new first voxel's centre
    affine[:3, 3] = apply_affine(grid.affine, start)
    return Grid((shape[0], shape[1], shape[2]), affine)


def resample(
    volume: Volume, grid: Grid, order: Literal["linear", "nearest"] = "linear", fill: float | None = None
) -> Volume:
    """Interpolate every channel on another grid.

    Along axes whose voxel size grows more than 1.5 times, linear interpolation follows a Gaussian filter that widens
    the old voxels to the new ones (Cardoso et al., MICCAI 2015, doi:10.1007/978-3-319-24571-3_81). Voxels outside the
    volume's field of view are `fill`, or the nearest voxel if None. Returns float32, or the volume's dtype for the
    order ``nearest``.
    """
    to_old = np.linalg.inv(volume.affine) @ grid.affine
    linear = order == "linear"
    array = volume.array
    if volume.shape == grid.shape and np.allclose(to_old, np.eye(4), atol=1e-4):
        return Volume(array.astype(np.float32, copy=False) if linear else array, grid.affine)
    sigma = _smoothing(to_old) if linear else np.zeros(3)
    channels = [_interpolated(channel, to_old, grid.shape, sigma, linear, fill) for channel in array]
    return Volume(channels[0][None] if len(channels) == 1 else np.stack(channels), grid.affine)


def resample_labels(labels: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Resample a label map (X, Y, Z) uint8: each label is interpolated as a mask, and the largest value wins.

    Nearest neighbour would roughen surfaces and lose thin structures. Voxels outside the field of view are background.
    """
    to_old = np.linalg.inv(old.affine) @ new.affine
    if old.shape == new.shape and np.allclose(to_old, np.eye(4), atol=1e-4):
        return labels
    sigma = _smoothing(to_old)
    margin = _MARGIN + np.ceil(4 * sigma).astype(int)
    result = np.zeros(new.shape, dtype=np.uint8)
    best = np.zeros(new.shape, dtype=np.float32)
    covered = np.zeros(new.shape, dtype=np.float32)  # fraction of a voxel with any label; the rest is background
    for value, bounds in enumerate(scipy.ndimage.find_objects(labels), start=1):
        if bounds is None:
            continue
        low = np.maximum([axis.start for axis in bounds] - margin, 0)
        high = np.minimum([axis.stop for axis in bounds] + margin, old.shape)
        box, target = _box(low, high), _image_of_box(low, high, to_old, new.shape)
        old_part, new_part = old.crop(box), new.crop(target)
        inner = np.linalg.inv(old_part.affine) @ new_part.affine
        fraction = _interpolated(labels[box] == value, inner, new_part.shape, sigma, True, 0.0)
        covered[target] += fraction
        wins = fraction > best[target]
        best[target][wins] = fraction[wins]
        result[target][wins] = value
    result[best <= 1 - covered] = 0
    return result


def resample_probabilities(probabilities: np.ndarray, old: Grid, new: Grid, outside: int | None) -> np.ndarray:
    """Resample class probabilities (K, X, Y, Z) float32; outside the old grid, that of the class `outside` is 1."""
    channels = []
    for label, channel in enumerate(probabilities):
        volume = Volume(channel[None], old.affine)
        channels.append(resample(volume, new, fill=1.0 if label == outside else 0.0).array[0])
    return np.stack(channels)


def resample_to_label_map(probabilities: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """The most probable of K classes (K, X, Y, Z) on another grid as uint8, resampled one class at a time.

    Probabilities may also be logits. Voxels outside the grid `old` are of class 0.
    """
    result = np.zeros(new.shape, dtype=np.uint8)
    best = np.full(new.shape, -np.inf, dtype=np.float32)
    for label, channel in enumerate(probabilities):
        values = resample(Volume(channel[None], old.affine), new, fill=-np.inf).array[0]
        wins = values > best
        best[wins] = values[wins]
        result[wins] = label
    return result


def _box(low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _image_of_box(
    low: np.ndarray, high: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """The smallest box of the new grid that contains the box low..high of the old one."""
    corners = np.array(list(product(*zip(low, high, strict=True)))) - 0.5
    new_corners = apply_affine(np.linalg.inv(to_old), corners)
    first = np.clip(np.floor(new_corners.min(axis=0)), 0, np.array(shape) - 1)
    last = np.clip(np.ceil(new_corners.max(axis=0)) + 1, first + 1, shape)
    return _box(first, last)


def _smoothing(to_old: np.ndarray) -> np.ndarray:
    """(3,) sigma in old voxels along each old axis; 0 without smoothing."""
    step = np.abs(to_old[:3, :3]).max(axis=1)
    return np.where(step > _DOWN, np.sqrt(np.maximum(step**2 - 1, 0)) / _FWHM, 0)


def _interpolated(
    array: np.ndarray,
    to_old: np.ndarray,
    shape: tuple[int, int, int],
    sigma: np.ndarray,
    linear: bool,
    fill: float | None,
) -> np.ndarray:
    """Smooth and interpolate voxels (X, Y, Z) on a grid of this shape; `to_old` maps its indices to the old ones."""
    off_diagonal = to_old[:3, :3] - np.diag(np.diag(to_old))[:3, :3]
    if linear and np.all(np.abs(off_diagonal) @ shape < _ALIGNED):
        return _along_axes(array, to_old, shape, sigma, fill)
    if linear:
        array = array.astype(np.float32, copy=False)
    for axis in np.flatnonzero(sigma):
        array = scipy.ndimage.gaussian_filter1d(array, sigma[axis], axis=int(axis), mode="nearest")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    transform = sitk.AffineTransform(to_old[:3, :3].ravel().tolist(), to_old[:3, 3].tolist())
    resampled = sitk.Resample(
        image,
        shape,
        transform,
        sitk.sitkLinear if linear else sitk.sitkNearestNeighbor,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        np.eye(3).ravel().tolist(),
        0.0 if fill is None else fill,
        image.GetPixelID(),
        fill is None,
    )
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)


def _along_axes(
    array: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int], sigma: np.ndarray, fill: float | None
) -> np.ndarray:
    """`_interpolated` for grids with the same axes: a sparse matrix along each axis.

    Old voxels are converted to float32 slab by slab, to save memory.
    """
    starts, steps = to_old[:3, 3], np.diag(to_old)[:3]
    x, y, z = map(_weights, array.shape, shape, starts, steps, sigma)
    slices = array.transpose(2, 1, 0)  # the order in files, with Z slowest
    result = np.zeros((shape[2], shape[0] * shape[1]), dtype=np.float32)
    thick = max(1, _SLAB // (slices.shape[1] * slices.shape[2]))
    for first in range(0, len(slices), thick):
        slab = [x @ np.ascontiguousarray((y @ part.astype(np.float32)).T) for part in slices[first : first + thick]]
        weights = z[:, first : first + thick]
        rows = np.flatnonzero(np.diff(weights.indptr))
        if len(rows):
            affected = slice(rows[0], rows[-1] + 1)
            result[affected] += weights[affected] @ np.stack(slab).reshape(len(slab), -1)
    volume = result.reshape(shape[2], shape[0], shape[1]).transpose(1, 2, 0)
    if fill is not None:
        for axis, (count, start, step) in enumerate(zip(array.shape, starts, steps, strict=True)):
            index = start + step * np.arange(shape[axis])
            np.moveaxis(volume, axis, 0)[(index < -0.5) | (index > count - 0.5)] = fill
    return volume


def _weights(old: int, new: int, start: float, step: float, sigma: float) -> scipy.sparse.csr_array:
    """(new, old) sparse float32 weights of the old voxels for the new ones, at old index start, start + step, ..."""
    index = np.clip(start + step * np.arange(new), 0, old - 1)
    low = np.minimum(index.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), low] = 1 - (index - low)
    weights[np.arange(new), np.minimum(low + 1, old - 1)] += index - low
    if sigma:
        weights = weights @ scipy.ndimage.gaussian_filter1d(np.eye(old), sigma, axis=0, mode="nearest")
    return scipy.sparse.csr_array(weights.astype(np.float32))

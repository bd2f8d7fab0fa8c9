"""Orientation and resampling: voxels from one grid to another, in the same place of the world.

Every resampling runs in index space: with the affines A of the voxels at hand and B of the grid wanted, the voxel j of
the wanted grid lies at index inv(A) @ B @ j. Oblique, flipped and anisotropic scans thus need no case of their own.
"""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Literal

import numpy as np
import scipy
import SimpleITK as sitk
from nibabel.affines import apply_affine

from voxmim.images.grid import Grid, Spacing, Volume

_KEPT = 0.1  # voxels: an axis that would change by less over its whole length is kept as it is
_DOWN = 1.5  # times: a voxel that grows by more is smoothed first, lest fine structures alias
_FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian of sigma 1
_STRAIGHT = 1e-3  # voxels: two grids that stray from each other by less have their axes in common
_SLAB = 2**23  # voxels that are interpolated at once
_MARGIN = 2  # voxels round a label's own box


def ras_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each world axis (right, anterior, superior) the voxel axis nearest to it, and its sign, +1 or -1."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = max(permutations(range(3)), key=lambda order: sum(abs(directions[w, v]) for w, v in enumerate(order)))
    a, b, c = (1 if directions[w, v] >= 0 else -1 for w, v in enumerate((x, y, z)))
    return (x, y, z), (a, b, c)


def to_ras(volume: Volume) -> Volume:
    """Turn the axes to the nearest RAS+ orientation; voxels change places, none is interpolated."""
    return reoriented(volume, *ras_axes(volume.affine))


def reoriented(volume: Volume, order: Sequence[int], signs: Sequence[int]) -> Volume:
    """The volume with its axes in this order, each reversed where its sign is -1; no voxel moves in the world."""
    array = volume.array.transpose(0, *(1 + v for v in order))[(slice(None), *(slice(None, None, s) for s in signs))]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        turn[old, 3] = 0 if sign > 0 else volume.shape[old] - 1
    return Volume(array, volume.affine @ turn)


def resampled_grid(grid: Grid, spacing: Spacing) -> Grid:
    """A grid of another voxel size over the same field of view and with the same directions.

    The outer edges of the first voxels coincide; at the far end the new voxels cover the old ones to within a tenth
    of a new voxel, and may reach beyond by less than one. An axis whose length would change by under a tenth of a voxel
    in all is kept, so that rounded spacings cost no interpolation.
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

    Where voxels grow by more than 1.5 times along an axis, linear interpolation comes after a Gaussian whose width
    makes the old voxel's extent the new one's (Cardoso et al., MICCAI 2015, doi:10.1007/978-3-319-24571-3_81). Outside
    the volume's field of view is `fill`; None repeats the nearest voxel. Returns float32, or for the order ``nearest``
    the volume's own type.
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
    """A label map (X, Y, Z) uint8 on another grid: each label is interpolated as a mask, and the largest value wins.

    The nearest neighbour would fray surfaces and drop thin structures. Outside the field of view is background.
    """
    to_old = np.linalg.inv(old.affine) @ new.affine
    if old.shape == new.shape and np.allclose(to_old, np.eye(4), atol=1e-4):
        return labels
    sigma = _smoothing(to_old)
    margin = _MARGIN + np.ceil(4 * sigma).astype(int)
    result = np.zeros(new.shape, dtype=np.uint8)
    best = np.zeros(new.shape, dtype=np.float32)
    covered = np.zeros(new.shape, dtype=np.float32)  # fraction of a voxel that any label holds; the rest is background
    for value, found in enumerate(scipy.ndimage.find_objects(labels), start=1):
        if found is None:
            continue
        low = np.maximum([part.start for part in found] - margin, 0)
        high = np.minimum([part.stop for part in found] + margin, old.shape)
        box, target = _box(low, high), _image_of_box(low, high, to_old, new.shape)
        part, wanted = old.crop(box), new.crop(target)
        inner = np.linalg.inv(part.affine) @ wanted.affine
        fraction = _interpolated(labels[box] == value, inner, wanted.shape, sigma, True, 0.0)
        covered[target] += fraction
        wins = fraction > best[target]
        best[target][wins] = fraction[wins]
        result[target][wins] = value
    result[best <= 1 - covered] = 0
    return result


def resample_probabilities(probabilities: np.ndarray, old: Grid, new: Grid, outside: int | None) -> np.ndarray:
    """(K, X, Y, Z) float32 class probabilities on another grid; beyond the old one, `outside` or no class is sure."""
    channels = []
    for label, channel in enumerate(probabilities):
        volume = Volume(channel[None], old.affine)
        channels.append(resample(volume, new, fill=1.0 if label == outside else 0.0).array[0])
    return np.stack(channels)


def resample_to_label_map(probabilities: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """The most probable of K classes (K, X, Y, Z) on another grid as uint8, without holding all classes there at once.

    Logits do as well as probabilities; voxels outside the grid `old` are of class 0.
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
    """The smallest box of the new grid that holds every voxel inside the box low..high of the old one."""
    corners = np.array(list(product(*zip(low, high, strict=True)))) - 0.5
    there = apply_affine(np.linalg.inv(to_old), corners)
    first = np.clip(np.floor(there.min(axis=0)), 0, np.array(shape) - 1)
    last = np.clip(np.ceil(there.max(axis=0)) + 1, first + 1, shape)
    return _box(first, last)


def _smoothing(to_old: np.ndarray) -> np.ndarray:
    """(3,) sigma in old voxels along each old axis; 0 where voxels don't grow by much."""
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
    """Voxels (X, Y, Z) smoothed and interpolated on a grid of this shape, of which `to_old` gives the old indices."""
    turned = to_old[:3, :3] - np.diag(np.diag(to_old))[:3, :3]
    if linear and np.all(np.abs(turned) @ shape < _STRAIGHT):
        return _along_axes(array, to_old, shape, sigma, fill)
    if linear:
        array = array.astype(np.float32, copy=False)
    for axis in np.flatnonzero(sigma):
        array = scipy.ndimage.gaussian_filter1d(array, sigma[axis], axis=int(axis), mode="nearest")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    transform = sitk.AffineTransform(to_old[:3, :3].ravel().tolist(), to_old[:3, 3].tolist())
    found = sitk.Resample(
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
    return sitk.GetArrayFromImage(found).transpose(2, 1, 0)


def _along_axes(
    array: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int], sigma: np.ndarray, fill: float | None
) -> np.ndarray:
    """The same where both grids have their axes in common: a sparse matrix along each, slab by slab.

    Only a slab of the old voxels is ever held as float32, however large the scan.
    """
    starts, steps = to_old[:3, 3], np.diag(to_old)[:3]
    x, y, z = map(_weights, array.shape, shape, starts, steps, sigma)
    slices = array.transpose(2, 1, 0)  # as files have them, Z slowest
    result = np.zeros((shape[2], shape[0] * shape[1]), dtype=np.float32)
    thick = max(1, _SLAB // (slices.shape[1] * slices.shape[2]))
    for first in range(0, len(slices), thick):
        slab = [x @ np.ascontiguousarray((y @ part.astype(np.float32)).T) for part in slices[first : first + thick]]
        weights = z[:, first : first + thick]
        rows = np.flatnonzero(np.diff(weights.indptr))
        if len(rows):
            reached = slice(rows[0], rows[-1] + 1)
            result[reached] += weights[reached] @ np.stack(slab).reshape(len(slab), -1)
    found = result.reshape(shape[2], shape[0], shape[1]).transpose(1, 2, 0)
    if fill is not None:
        for axis, (count, start, step) in enumerate(zip(array.shape, starts, steps, strict=True)):
            index = start + step * np.arange(shape[axis])
            np.moveaxis(found, axis, 0)[(index < -0.5) | (index > count - 0.5)] = fill
    return found


def _weights(old: int, new: int, start: float, step: float, sigma: float) -> scipy.sparse.csr_array:
    """(new, old) float32, sparse: what each old voxel counts for the new ones, at index start, start + step, ..."""
    index = np.clip(start + step * np.arange(new), 0, old - 1)
    low = np.minimum(index.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), low] = 1 - (index - low)
    weights[np.arange(new), np.minimum(low + 1, old - 1)] += index - low
    if sigma:
        weights = weights @ scipy.ndimage.gaussian_filter1d(np.eye(old), sigma, axis=0, mode="nearest")
    return scipy.sparse.csr_array(weights.astype(np.float32))

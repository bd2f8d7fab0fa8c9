"""Orientation and resampling: voxels from one grid to another, in the same place of the world.

Every resampling runs in index space: with the affines A of the voxels at hand and B of the grid wanted, the voxel j of
the wanted grid lies at index inv(A) @ B @ j. Oblique, flipped and anisotropic scans thus need no case of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import find_objects, gaussian_filter1d

from voxmim.scans.volume import Volume

Spacing = tuple[float, float, float]
_KEPT = 0.1  # voxels: an axis that would change by less over its whole length is kept as it is
_DOWN = 1.5  # times: a voxel that grows by more is smoothed first, lest fine structures alias
_FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian of sigma 1
_MARGIN = 2  # voxels round a label's own box


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie, without the voxels.

    Attributes:
        shape: voxels along X, Y, Z.
        affine: (4, 4), voxel index to RAS+ world mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def of(cls, volume: Volume) -> Grid:
        """The grid of a volume."""
        return cls(volume.shape, volume.affine)

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of a box of the voxels (starts and stops inside the grid)."""
        x, y, z = (part.stop - part.start for part in box)
        return Grid((x, y, z), _moved(self.affine, np.array([part.start for part in box])))


def ras_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each world axis (right, anterior, superior) the voxel axis nearest to it, and its sign, +1 or -1."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = max(permutations(range(3)), key=lambda order: sum(abs(directions[w, v]) for w, v in enumerate(order)))
    a, b, c = (1 if directions[w, v] >= 0 else -1 for w, v in enumerate((x, y, z)))
    return (x, y, z), (a, b, c)


def to_ras(volume: Volume) -> Volume:
    """Turn the axes to the nearest RAS+ orientation; voxels change places, none is interpolated."""
    order, signs = ras_axes(volume.affine)
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
    affine[:3, 3] = _moved(grid.affine, start)[:3, 3]
    return Grid((shape[0], shape[1], shape[2]), affine)


def resample(
    volume: Volume, grid: Grid, order: Literal["linear", "nearest"] = "linear", fill: float | None = None
) -> Volume:
    """Interpolate every channel on another grid.

    Where voxels grow by more than 1.5 times along an axis, linear interpolation comes after a Gaussian whose width
    makes the old voxel's extent the new one's (Cardoso et al., MICCAI 2015, doi:10.1007/978-3-319-24571-3_81).

    Args:
        volume: (C, X, Y, Z).
        grid: the grid wanted.
        order: of the interpolation.
        fill: value outside the volume's field of view; None repeats the nearest voxel.

    Returns:
        float32 for linear interpolation, the volume's own type for nearest.
    """
    to_old = np.linalg.inv(volume.affine) @ grid.affine
    linear = order == "linear"
    array = volume.array.astype(np.float32, copy=False) if linear else volume.array
    if volume.shape == grid.shape and np.allclose(to_old, np.eye(4), atol=1e-4):
        return Volume(array, grid.affine)
    sigma = _smoothing(to_old) if linear else np.zeros(3)
    channels = [_interpolated(_smoothed(channel, sigma), to_old, grid.shape, linear, fill) for channel in array]
    return Volume(np.stack(channels), grid.affine)


def resample_labels(labels: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Bring a label map to another grid: each label is interpolated as a mask of its own, the largest share wins.

    Better than the nearest neighbour, which frays surfaces and drops thin structures when voxels grow.

    Args:
        labels: (X, Y, Z) uint8 on the grid `old`.
        old: the grid of `labels`.
        new: the grid wanted.

    Returns:
        (X', Y', Z') uint8 on the grid `new`, background outside the field of view.
    """
    to_old = np.linalg.inv(old.affine) @ new.affine
    if old.shape == new.shape and np.allclose(to_old, np.eye(4), atol=1e-4):
        return labels
    sigma = _smoothing(to_old)
    margin = _MARGIN + np.ceil(4 * sigma).astype(int)
    result = np.zeros(new.shape, dtype=np.uint8)
    best = np.full(new.shape, 0.0, dtype=np.float32)
    covered = np.zeros(new.shape, dtype=np.float32)  # share of a voxel that any label holds; the rest is background
    for value, found in enumerate(find_objects(labels), start=1):
        if found is None:
            continue
        low = np.maximum([part.start for part in found] - margin, 0)
        high = np.minimum([part.stop for part in found] + margin, old.shape)
        box = _box(low, high)
        target = _image_of_box(low, high, to_old, new.shape)
        start, shape = np.array([part.start for part in target]), new.crop(target).shape
        mask = _smoothed((labels[box] == value).astype(np.float32), sigma)
        inner = _moved(_moved(to_old, start), -low, before=True)
        share = _interpolated(mask, inner, shape, True, 0.0)
        covered[target] += share
        wins = share > best[target]
        best[target][wins] = share[wins]
        result[target][wins] = value
    result[best <= 1 - covered] = 0
    return result


def resample_probabilities(probabilities: np.ndarray, old: Grid, new: Grid, outside: int | None = 0) -> np.ndarray:
    """(K, X, Y, Z) float32 class probabilities on another grid; beyond the old one, `outside` or no class is sure."""
    channels = []
    for label, channel in enumerate(probabilities):
        volume = Volume(channel[None], old.affine)
        channels.append(resample(volume, new, fill=1.0 if label == outside else 0.0).array[0])
    return np.stack(channels)


def resample_to_label_map(probabilities: np.ndarray, old: Grid, new: Grid, outside: int = 0) -> np.ndarray:
    """The most probable class on another grid, without ever holding all classes there.

    Args:
        probabilities: (K, X, Y, Z) float32 on the grid `old`; logits do as well.
        old: the grid of the probabilities.
        new: the grid wanted.
        outside: the class of voxels outside the grid `old`.

    Returns:
        (X', Y', Z') uint8 on the grid `new`.
    """
    result = np.full(new.shape, outside, dtype=np.uint8)
    best = np.full(new.shape, -np.inf, dtype=np.float32)
    for label, channel in enumerate(probabilities):
        values = resample(Volume(channel[None], old.affine), new, fill=-np.inf).array[0]
        wins = values > best
        best[wins] = values[wins]
        result[wins] = label
    return result


def _moved(affine: np.ndarray, start: np.ndarray, before: bool = False) -> np.ndarray:
    """The affine of a grid that begins at index `start` (or, with `before`, that leads to indices shifted by it)."""
    moved = affine.copy()
    moved[:3, 3] += start if before else affine[:3, :3] @ start
    return moved


def _box(low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _image_of_box(
    low: np.ndarray, high: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """The smallest box of the new grid that holds every voxel inside the box low..high of the old one."""
    corners = np.array(
        [[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2], 1] for i, j, k in np.ndindex(2, 2, 2)]
    )
    there = (corners - [0.5, 0.5, 0.5, 0]) @ np.linalg.inv(to_old).T
    first = np.clip(np.floor(there[:, :3].min(axis=0)), 0, np.array(shape) - 1)
    last = np.clip(np.ceil(there[:, :3].max(axis=0)) + 1, first + 1, shape)
    return _box(first, last)


def _smoothing(to_old: np.ndarray) -> np.ndarray:
    """(3,) sigma in old voxels along each old axis; 0 where voxels don't grow by much."""
    growth = np.abs(to_old[:3, :3]).max(axis=1)
    return np.where(growth > _DOWN, np.sqrt(np.maximum(growth**2 - 1, 0)) / _FWHM, 0)


def _smoothed(array: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    for axis in np.flatnonzero(sigma):
        array = gaussian_filter1d(array, sigma[axis], axis=int(axis), mode="nearest")
    return array


def _interpolated(
    array: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int], linear: bool, fill: float | None
) -> np.ndarray:
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

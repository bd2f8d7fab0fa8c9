from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from voxmim.images import geometry
from voxmim.images.geometry import (
    Grid,
    ras_axes,
    resample,
    resample_labels,
    resample_probabilities,
    resample_to_label_map,
    resampled_grid,
    to_ras,
)
from voxmim.images.volume import Volume

SLOPE = np.array([1.0, -2.0, 0.5])


def oriented(order: tuple[int, ...], signs: tuple[int, ...], tilt: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """An affine with anisotropic spacing and voxel axes along the given world axes, tilted by degrees."""
    affine = np.eye(4)
    rotation = np.zeros((3, 3))
    for voxel, (world, sign) in enumerate(zip(order, signs, strict=True)):
        rotation[world, voxel] = sign
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ rotation * [1.0, 1.5, 2.5]
    affine[:3, 3] = 11, -7, 3
    return affine


AXES = [
    (order, signs)
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3))
    if np.linalg.det(oriented(order, signs)[:3, :3]) > 0
]
MIRRORED = [((0, 1, 2), (-1, 1, 1)), ((2, 1, 0), (1, 1, 1))]
TILTS = [(0.0, 0.0, 0.0), (20.0, -15.0, 10.0)]


def world(grid: Grid) -> np.ndarray:
    """(3, X, Y, Z) world coordinates of every voxel in mm."""
    index = np.indices(grid.shape).reshape(3, -1)
    return (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).reshape(3, *grid.shape)


def ramp(grid: Grid) -> np.ndarray:
    return np.tensordot(SLOPE, world(grid), 1)


def blob(grid: Grid, centre: np.ndarray) -> np.ndarray:
    """An ellipsoid in world coordinates (label 1) with a smaller one in its upper right (label 2)."""
    offset = (world(grid).T - centre).T

    def ellipsoid(at: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        return np.sum(((offset.T - at) / radii) ** 2, axis=-1).T < 1

    return np.where(ellipsoid((5.3, 0.4, 7.2), (10, 9, 11)), 2, ellipsoid((0.1, 0.3, -0.2), (19, 17, 21))).astype(
        np.uint8
    )


def centre_of(grid: Grid) -> np.ndarray:
    return (grid.affine @ [*(np.array(grid.shape) - 1) / 2, 1])[:3]


def test_there_are_24_axis_orientations() -> None:
    assert len(AXES) == 24


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize(("order", "signs"), AXES + MIRRORED)
def test_reorienting_keeps_voxel_positions_and_agrees_with_nibabel(
    order: tuple[int, ...], signs: tuple[int, ...], tilt: tuple[float, ...]
) -> None:
    grid = Grid((5, 6, 7), oriented(order, signs, tilt))
    ras = to_ras(Volume(ramp(grid)[None], grid.affine))
    np.testing.assert_allclose(ras.array[0], ramp(Grid.of(ras)), atol=1e-9)
    assert sorted(ras.array.ravel()) == sorted(ramp(grid).ravel())
    reference = nib.as_closest_canonical(nib.Nifti1Image(ramp(grid), grid.affine))
    np.testing.assert_allclose(ras.affine, reference.affine, atol=1e-9)
    np.testing.assert_allclose(ras.array[0], np.asarray(reference.dataobj), atol=1e-9)


@given(st.tuples(*[st.floats(-30, 30)] * 3), st.sampled_from(AXES))
@settings(max_examples=50, deadline=None)
def test_the_closest_axes_agree_with_nibabel(tilt: tuple[float, ...], axes: tuple[tuple[int, ...], ...]) -> None:
    affine = oriented(*axes, tilt)
    order, signs = ras_axes(affine)
    theirs = nib.io_orientation(affine)  # the world axis of each voxel axis
    assert [(int(theirs[v, 0]), int(theirs[v, 1])) for v in order] == [(w, signs[w]) for w in range(3)]


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.floats(0.5, 6)] * 3),
    st.tuples(*[st.floats(0.5, 6)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_a_resampled_grid_covers_the_same_field_of_view(
    shape: tuple[int, int, int], old: tuple[float, float, float], new: tuple[float, float, float]
) -> None:
    affine = oriented((2, 0, 1), (1, -1, 1), (20, -15, 10)) @ np.diag([*(np.array(old) / [1, 1.5, 2.5]), 1])
    grid = Grid(shape, affine)
    other = resampled_grid(grid, new)
    edge = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(grid.affine @ edge, other.affine @ edge, atol=1e-6)
    for axis in range(3):
        if other.shape[axis] != shape[axis]:
            assert other.spacing[axis] == pytest.approx(new[axis])
        size, length, count = other.spacing[axis], shape[axis] * grid.spacing[axis], other.shape[axis]
        assert count == 1 or -0.1001 * size < count * size - length < 1.0001 * size
    directions = [g.affine[:3, :3] / g.spacing for g in (grid, other)]
    np.testing.assert_allclose(*directions, atol=1e-9)


def test_a_rounding_difference_in_spacing_does_not_resample() -> None:
    grid = Grid((60, 60, 60), np.diag([0.9998, 1.0001, 1, 1]))
    other = resampled_grid(grid, (1, 1, 1))
    assert other.shape == grid.shape
    np.testing.assert_array_equal(other.affine, grid.affine)


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize(("order", "signs"), AXES + MIRRORED)
def test_resampling_keeps_world_positions_and_can_be_undone(
    order: tuple[int, ...], signs: tuple[int, ...], tilt: tuple[float, ...]
) -> None:
    grid = Grid((60, 42, 26), oriented(order, signs, tilt))
    labels = blob(grid, centre_of(grid))
    ras = to_ras(Volume(labels[None], grid.affine))
    other = resampled_grid(Grid.of(ras), (1.7, 1.3, 1.9))
    moved = resample_labels(labels, grid, other)
    np.testing.assert_array_equal(moved, resample_labels(ras.array[0], Grid.of(ras), other))
    for value in (1, 2):
        after, before = (world(g)[:, m == value] for g, m in ((other, moved), (grid, labels)))
        np.testing.assert_allclose(after.mean(axis=1), before.mean(axis=1), atol=0.25)  # mm
        size = after.shape[1] * np.prod(other.spacing)
        assert size == pytest.approx(before.shape[1] * np.prod(grid.spacing), rel=0.08)
    truth = blob(other, centre_of(grid))
    assert np.mean(moved == truth) > 0.97
    back = resample_labels(moved, other, grid)
    for value in (1, 2):
        both = np.sum((back == value) & (labels == value))
        assert 2 * both / (np.sum(back == value) + np.sum(labels == value)) > 0.93


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize(("order", "signs"), AXES[::5] + MIRRORED)
def test_a_linear_ramp_in_world_coordinates_is_reproduced_on_every_grid(
    order: tuple[int, ...], signs: tuple[int, ...], tilt: tuple[float, ...]
) -> None:
    grid = Grid((20, 18, 16), oriented(order, signs, tilt))
    middle = Grid((6, 6, 6), np.diag([1.4, 1.2, 1.6, 1.0]))
    middle.affine[:3, 3] = centre_of(grid) - [3.5, 3, 4]
    resampled = resample(Volume(ramp(grid)[None], grid.affine), middle)
    np.testing.assert_allclose(resampled.array[0], ramp(middle), atol=1e-3)


@pytest.mark.parametrize("order", ["linear", "nearest"])
@pytest.mark.parametrize("fill", [None, -7.0])
def test_resampling_agrees_with_scipy(order: str, fill: float | None) -> None:
    rng = np.random.default_rng(1)
    grid = Grid((9, 10, 11), oriented((1, 2, 0), (1, 1, -1), (12, 5, -8)))
    volume = Volume(rng.normal(size=(2, *grid.shape)).astype(np.float32), grid.affine)
    other = Grid((20, 16, 14), np.diag([0.9, 1.1, 1.2, 1.0]))
    other.affine[:3, 3] = centre_of(grid) - [11, 6, 9]
    index = np.linalg.inv(grid.affine) @ np.vstack([world(other).reshape(3, -1), np.ones(np.prod(other.shape))])
    inside = np.all((index[:3] >= -0.5) & (index[:3] < np.array(grid.shape)[:, None] - 0.5), axis=0)
    assert 0.1 < inside.mean() < 0.9
    resampled = resample(volume, other, order, fill)
    for channel, result in zip(volume.array, resampled.array, strict=True):
        slow = map_coordinates(channel, index[:3], order=1 if order == "linear" else 0, mode="nearest")
        values = result.ravel()
        np.testing.assert_allclose(values[inside], slow[inside], atol=1e-4)
        if fill is not None:
            assert np.all(values[~inside] == fill)
        elif order == "nearest":
            assert np.all(np.isin(values, channel))


def test_downsampling_does_not_alias() -> None:
    stripes = np.tile(np.array([1, -1, -1], dtype=np.float32), 12)[:, None, None] * np.ones((36, 36, 36), np.float32)
    volume = Volume(stripes[None], np.eye(4))
    coarse = resample(volume, resampled_grid(Grid.of(volume), (3, 3, 3))).array[0]
    np.testing.assert_allclose(coarse[2:-2, 2:-2, 2:-2], -1 / 3, atol=0.1)  # the mean; every third voxel is -1


def test_a_short_axis_is_smoothed_too() -> None:
    volume = Volume(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), np.eye(4))
    assert resample(volume, resampled_grid(Grid.of(volume), (2, 2, 2))).array.ravel() == pytest.approx(3.5)


def test_thin_labels_keep_their_volume() -> None:
    where = np.indices((60, 60, 60)) - 29.7
    tube = (np.hypot(where[0] - 0.4 * where[2], where[1]) < 2.6).astype(np.uint8)
    grid = Grid((60, 60, 60), np.eye(4))
    coarse = resampled_grid(grid, (2.5, 2.5, 2.5))
    labels = resample_labels(tube, grid, coarse)
    assert labels.sum() * 2.5**3 == pytest.approx(tube.sum(), rel=0.15)
    assert labels.any(axis=(0, 1)).all()


def test_adjacent_labels_stay_without_a_gap() -> None:
    halves = np.ones((10, 10, 10), dtype=np.uint8)
    halves[5:] = 7
    grid = Grid((10, 10, 10), np.eye(4))
    for spacing in ((0.7, 0.7, 0.7), (1.9, 1.9, 1.9)):
        other = resampled_grid(grid, spacing)
        inside = np.all(world(other) < 9.5, axis=0)
        assert set(np.unique(resample_labels(halves, grid, other)[inside])) == {1, 7}


def random_probabilities(shape: tuple[int, int, int]) -> np.ndarray:
    raw = np.random.default_rng(2).random((4, *shape)).astype(np.float32)
    return raw / raw.sum(axis=0)


def test_the_label_map_is_the_argmax_of_the_resampled_probabilities() -> None:
    small = Grid((8, 9, 7), oriented((0, 1, 2), (1, 1, 1)))
    large = Grid((14, 13, 12), oriented((2, 0, 1), (1, -1, 1), (20, -15, 10)))
    large.affine[:3, 3] += centre_of(small) - centre_of(large)
    probabilities = random_probabilities(small.shape)
    full = resample_probabilities(probabilities, small, large, 0)
    assert full.dtype == np.float32
    np.testing.assert_allclose(full.sum(axis=0), 1, atol=1e-5)
    labels = resample_to_label_map(probabilities, small, large)
    assert labels.dtype == np.uint8
    assert 0.05 < np.mean(full[0] == 1) < 0.95  # background outside
    np.testing.assert_array_equal(labels, full.argmax(axis=0))
    assert np.all(resample_to_label_map(np.log(probabilities), small, small) == probabilities.argmax(axis=0))


def test_a_cropped_grid_keeps_the_positions_of_its_voxels() -> None:
    grid = Grid((8, 9, 7), oriented((2, 0, 1), (1, -1, 1), (20, -15, 10)))
    box = (slice(2, 5), slice(0, 9), slice(3, 7))
    np.testing.assert_allclose(world(grid.crop(box)), world(grid)[(slice(None), *box)], atol=1e-9)


@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.one_of(st.floats(0.3, 3), st.floats(-3, -0.3))] * 3),
    st.tuples(*[st.floats(-4, 9)] * 3),
    st.sampled_from([None, 0.0, -7.0]),
    st.sampled_from([1, 200, 2**23]),
)
@settings(max_examples=60)
def test_resampling_along_parallel_axes_agrees_with_scipy(
    old: tuple[int, int, int],
    new: tuple[int, int, int],
    step: tuple[float, float, float],
    start: tuple[float, float, float],
    fill: float | None,
    slab: int,
) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (1, *old)).astype(np.int16)
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = start
    volume, grid = Volume(array, np.eye(4)), Grid(new, affine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_SLAB", slab)
        ours = resample(volume, grid, fill=fill).array[0]
    axes = [a + b * np.arange(n) for a, b, n in zip(start, step, new, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"))
    sigma = [np.sqrt(s**2 - 1) / 2.3548 if abs(s) > 1.5 else 0 for s in step]
    smoothed = gaussian_filter(array[0].astype(float), sigma, mode="nearest")
    expected = map_coordinates(smoothed, index, order=1, mode="nearest")
    last = np.array(old)[:, None, None, None] - 0.5
    if fill is not None:
        expected[np.any((index < -0.5) | (index > last), axis=0)] = fill
    unambiguous = np.all(
        (np.abs(index + 0.5) > 1e-6) & (np.abs(index - last) > 1e-6), axis=0
    )  # at an edge, both values are valid
    np.testing.assert_allclose(ours[unambiguous], expected[unambiguous], atol=0.01)

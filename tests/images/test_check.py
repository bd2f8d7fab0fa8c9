from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxmim.errors import ScanError
from voxmim.images.check import check_image, check_label_values, check_same_grid
from voxmim.images.geometry import Grid
from voxmim.images.volume import Volume

SCAN, LABEL = Path("scan.nii.gz"), Path("label.nii.gz")
AFFINE = np.diag([0.5, 0.5, 3.0, 1.0])


def scan(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def label(values: list[float], dtype: type = np.uint8) -> Volume:
    array = np.zeros((1, 10, 10, 10), dtype=dtype)
    array.flat[: len(values)] = values
    return Volume(array, AFFINE)


GRID = Grid((10, 10, 10), AFFINE)


def test_a_valid_scan_passes() -> None:
    check_image(Volume(scan(2, 10, 10, 10), AFFINE), SCAN)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_constant_scan_is_refused(dtype: type) -> None:
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: every voxel has the value 7"):
        check_image(Volume(np.full((1, 10, 10, 10), 7, dtype=dtype), AFFINE), SCAN)


def test_the_constant_channel_is_named() -> None:
    array = scan(2, 10, 10, 10)
    array[1] = 0
    with pytest.raises(ScanError, match="every voxel in channel 1 has the value 0"):
        check_image(Volume(array, AFFINE), SCAN)


def test_a_single_slice_is_refused_and_a_thin_volume_is_not() -> None:
    with pytest.raises(ScanError, match="10 x 1 x 10 voxels make a slice"):
        check_image(Volume(scan(1, 10, 1, 10), AFFINE), SCAN)
    check_image(Volume(scan(1, 10, 10, 3), AFFINE), SCAN)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_a_valid_label_map_passes(dtype: type) -> None:
    check_label_values(label([1, 2], dtype), LABEL, known=(1, 2))
    check_label_values(label([200], dtype), LABEL)
    check_label_values(label([], dtype), LABEL)


@pytest.mark.parametrize(
    ("values", "dtype"), [([0.5], np.float32), ([np.nan], np.float32), ([-1], np.int16), ([256], np.int16)]
)
def test_invalid_label_values_are_refused(values: list[float], dtype: type) -> None:
    with pytest.raises(ScanError, match=r"label\.nii\.gz: label values .* are not all whole numbers from 0 to 255"):
        check_label_values(label(values, dtype), LABEL)


def test_an_unlisted_label_is_reported_with_the_listed_ones() -> None:
    with pytest.raises(ScanError, match=r"label value 9 is not listed in dataset\.json \(1, 2\)"):
        check_label_values(label([1, 9]), LABEL, known=(1, 2))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ScanError, match=r"label\.nii\.gz: its shape 10 x 10 x 10 differs from 10 x 10 x 9 of scan"):
        check_same_grid(GRID, Grid((10, 10, 9), AFFINE), LABEL, SCAN)


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0, 0, 0.05), (0, -300, 0)])
def test_another_position_is_refused(shift: tuple[float, float, float]) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] += shift
    with pytest.raises(ScanError, match="its affine puts a corner"):
        check_same_grid(GRID, Grid((10, 10, 10), moved), LABEL, SCAN)


def test_another_direction_or_spacing_is_refused_even_with_the_same_origin() -> None:
    for factors in ((-1, 1, 1), (1.01, 1, 1)):
        with pytest.raises(ScanError, match="its affine puts a corner"):
            check_same_grid(GRID, Grid((10, 10, 10), AFFINE @ np.diag([*factors, 1.0])), LABEL, SCAN)


def test_rounding_in_a_header_is_tolerated() -> None:
    rounded = AFFINE + np.random.default_rng(0).normal(scale=1e-5, size=(4, 4)) * [[1], [1], [1], [0]]
    check_same_grid(GRID, Grid((10, 10, 10), rounded), LABEL, SCAN)

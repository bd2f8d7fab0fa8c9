"""The default voxel size of a store is exactly that of one of its scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxmim.store.format import Preparation, Store
from voxmim.store.prepare import prepare

Maker = Callable[..., Path]


def store_of(folder: Path, write_scan: Maker, *affines: np.ndarray) -> Store:
    for number, affine in enumerate(affines):
        scan = np.random.default_rng(number).normal(size=(9, 8, 7)).astype(np.float32)
        write_scan(folder / "scans" / f"{number}.nii", scan, affine)
    return Store(prepare(folder / "scans", folder / "store", workers=1, quiet=True).store)


def test_the_default_is_the_median_over_scans_in_ras(tmp_path: Path, write_scan: Maker) -> None:
    permuted = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    store = store_of(tmp_path, write_scan, permuted, np.diag([3.1, 1.004, 2.0, 1]), np.diag([9.0, 9, 9, 1]))
    assert store.preparation == Preparation((3.1, 1.004, 2.0), "mr", ("image",))


@pytest.mark.parametrize("size", [0.005, 0.488, 0.48828125, 0.9765625, 1 / 3])
def test_scans_with_one_voxel_size_are_not_resampled(tmp_path: Path, write_scan: Maker, size: float) -> None:
    store = store_of(tmp_path, write_scan, *[np.diag([-size, size, 2 * size, 1])] * 3)
    assert store.preparation.spacing == pytest.approx((size, size, 2 * size), rel=3e-7)
    assert len({f"{size:.7g}" for size in store.preparation.spacing[:2]}) == 1
    assert {case.shape for case in store.cases.values()} == {(9, 8, 7)}


def test_of_two_sizes_one_is_used_and_not_their_mean(tmp_path: Path, write_scan: Maker) -> None:
    store = store_of(tmp_path, write_scan, np.diag([0.7, 0.7, 5, 1]), np.diag([0.9, 0.9, 3, 1]))
    assert store.preparation.spacing == (0.7, 0.7, 3.0)

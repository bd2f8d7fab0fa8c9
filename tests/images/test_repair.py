from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from voxmim.images.geometry import Grid
from voxmim.images.repair import repair_label
from voxmim.images.volume import Volume

FILE = Path("label.nii.gz")
AFFINE = np.array([[0.9, 0.1, 0, 5], [-0.1, 0.8, 0.2, -7], [0, -0.15, 2.0, 30], [0, 0, 0, 1]])
LABEL = np.random.default_rng(0).integers(0, 3, (1, 4, 5, 6)).astype(np.uint8)
GRID = Grid((4, 5, 6), AFFINE)


def kinds_of(label: Volume, grid: Grid | None = GRID) -> list[str]:
    _, findings = repair_label(label, grid, FILE)
    assert all(finding.action == "repaired" and finding.file == str(FILE) for finding in findings)
    return [finding.kind for finding in findings]


def test_a_label_map_that_fits_stays_as_it_is() -> None:
    mended, findings = repair_label(Volume(LABEL, AFFINE), GRID, FILE)
    assert findings == []
    assert mended.array is LABEL


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("signs", product((1, -1), repeat=3))
def test_axes_that_run_another_way_are_turned_and_every_voxel_stays_in_its_place(
    order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    index = np.stack(np.meshgrid(*map(np.arange, LABEL.shape[1:]), indexing="ij"))  # of each voxel on the scan's grid
    flip = tuple(slice(None, None, sign) for sign in signs)
    array = LABEL[0].transpose(order)[flip]
    moved = np.stack([axis.transpose(order)[flip] for axis in index])
    affine = np.eye(4)  # by three neighbours of the first voxel, not by a formula
    affine[:3, 3] = (AFFINE @ [*moved[:, 0, 0, 0], 1])[:3]
    for axis, step in enumerate(((1, 0, 0), (0, 1, 0), (0, 0, 1))):
        affine[:3, axis] = (AFFINE @ [*moved[(slice(None), *step)], 1])[:3] - affine[:3, 3]
    mended, findings = repair_label(Volume(array[None], affine), GRID, FILE)
    assert [finding.kind for finding in findings] == (
        [] if order == (0, 1, 2) and signs == (1, 1, 1) else ["other axes"]
    )
    np.testing.assert_array_equal(mended.array, LABEL)
    np.testing.assert_allclose(mended.affine, AFFINE, atol=1e-9)


@pytest.mark.parametrize(("off", "kinds"), [(0.001, []), (0.05, ["other grid"]), (0.2, ["other grid"]), (0.6, [])])
def test_a_rounded_affine_is_replaced_and_another_place_is_left_to_the_check(off: float, kinds: list[str]) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, 0] * off
    mended, _ = repair_label(Volume(LABEL, affine), GRID, FILE)
    assert kinds_of(Volume(LABEL, affine)) == kinds
    assert np.array_equal(mended.affine, AFFINE if kinds else affine)


def test_a_mirrored_header_that_leads_elsewhere_is_not_turned() -> None:
    assert kinds_of(Volume(LABEL, AFFINE @ np.diag([-1, 1, 1, 1]))) == []


@pytest.mark.parametrize(("factor", "kinds"), [(1, []), (1.0004, ["not integers"]), (1.01, [])])
def test_values_close_to_integers_are_rounded(factor: float, kinds: list[str]) -> None:
    label = Volume(LABEL * np.float32(factor), AFFINE)
    mended, _ = repair_label(label, None, FILE)
    assert kinds_of(label, None) == kinds
    assert np.array_equal(mended.array, LABEL if factor < 1.01 else label.array)

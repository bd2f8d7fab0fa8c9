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


def test_a_matching_label_map_is_not_changed() -> None:
    repaired, findings = repair_label(Volume(LABEL, AFFINE), GRID, FILE)
    assert findings == []
    assert repaired.array is LABEL


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("signs", product((1, -1), repeat=3))
def test_other_axes_are_reoriented_and_voxels_keep_their_positions(
    order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    index = np.stack(np.meshgrid(*map(np.arange, LABEL.shape[1:]), indexing="ij"))  # of each voxel in the scan's grid
    flip = tuple(slice(None, None, sign) for sign in signs)
    array = LABEL[0].transpose(order)[flip]
    moved = np.stack([axis.transpose(order)[flip] for axis in index])
    affine = np.eye(4)  # from the neighbours of the first voxel
    affine[:3, 3] = (AFFINE @ [*moved[:, 0, 0, 0], 1])[:3]
    for axis, step in enumerate(((1, 0, 0), (0, 1, 0), (0, 0, 1))):
        affine[:3, axis] = (AFFINE @ [*moved[(slice(None), *step)], 1])[:3] - affine[:3, 3]
    repaired, findings = repair_label(Volume(array[None], affine), GRID, FILE)
    assert [finding.kind for finding in findings] == (
        [] if order == (0, 1, 2) and signs == (1, 1, 1) else ["other axes"]
    )
    np.testing.assert_array_equal(repaired.array, LABEL)
    np.testing.assert_allclose(repaired.affine, AFFINE, atol=1e-9)


@pytest.mark.parametrize(("shift", "kinds"), [(0.001, []), (0.05, ["other grid"]), (0.2, ["other grid"]), (0.6, [])])
def test_a_rounded_affine_is_replaced_and_a_shifted_one_is_kept(shift: float, kinds: list[str]) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, 0] * shift
    repaired, _ = repair_label(Volume(LABEL, affine), GRID, FILE)
    assert kinds_of(Volume(LABEL, affine)) == kinds
    assert np.array_equal(repaired.affine, AFFINE if kinds else affine)


def test_a_mirrored_header_at_another_position_is_not_reoriented() -> None:
    assert kinds_of(Volume(LABEL, AFFINE @ np.diag([-1, 1, 1, 1]))) == []


@pytest.mark.parametrize(("factor", "kinds"), [(1, []), (1.0004, ["not integers"]), (1.01, [])])
def test_values_close_to_integers_are_rounded(factor: float, kinds: list[str]) -> None:
    label = Volume(LABEL * np.float32(factor), AFFINE)
    repaired, _ = repair_label(label, None, FILE)
    assert kinds_of(label, None) == kinds
    assert np.array_equal(repaired.array, LABEL if factor < 1.01 else label.array)

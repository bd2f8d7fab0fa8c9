"""Small components of label maps, compared with a plain flood fill."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxmim.images.components import remove_small_components

LABEL_MAPS = arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 3))


def flood_fill(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """The voxels of each component, found voxel by voxel."""
    left, components = {tuple(map(int, voxel)) for voxel in np.argwhere(mask)}, []
    while left:
        waiting = [left.pop()]
        found = set(waiting)
        while waiting:
            x, y, z = waiting.pop()
            near = {(x + i, y + j, z + k) for i, j, k in product((-1, 0, 1), repeat=3)} & left
            left -= near
            found |= near
            waiting += near
        components.append(found)
    return components


@given(LABEL_MAPS, st.sets(st.integers(1, 4)), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_components_below_the_fraction_of_the_largest_become_background(
    label_map: np.ndarray, values: set[int], small: float
) -> None:
    expected, before = label_map.copy(), label_map.copy()
    for value in values:
        components = flood_fill(label_map == value)
        largest = max(map(len, components), default=0)
        for component in components:
            if len(component) < small * largest:
                expected[tuple(np.array(list(component)).T)] = 0
    np.testing.assert_array_equal(remove_small_components(label_map, values, small), expected)
    np.testing.assert_array_equal(label_map, before)


def test_two_lungs_are_kept_and_a_spot_is_removed() -> None:
    label_map = np.zeros((20, 8, 8), dtype=np.uint8)
    label_map[1:6, 1:6, 1:6] = label_map[9:13, 1:6, 1:6] = label_map[18:, 6:, 6:] = 1
    cleaned = remove_small_components(label_map, [1])
    assert cleaned.sum() == 125 + 100
    assert not cleaned[18:].any()

"""The judgement of slices' positions, against positions made on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.images.formats.dicom_stack import stack

TURNED = np.array([[0.8, 0.6, 0.0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]])  # rows: across, down, normal


def at(heights: np.ndarray, aside: np.ndarray | None = None) -> np.ndarray:
    """(N, 3) positions over a turned slice; `aside` (N, 2) within it."""
    flat = np.zeros((len(heights), 2)) if aside is None else aside
    return np.column_stack([flat, heights]) @ TURNED + [100, -50, 7]


@given(st.integers(2, 40), st.floats(0.1, 10), st.integers(0, 2**32 - 1))
def test_even_slices_are_ordered_whatever_their_order(count: int, spacing: float, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(count)
    found = stack(at(shuffled * spacing), TURNED[2], 1.0)
    assert found.fault is None
    assert [shuffled[index] for index in found.order] == list(range(count))
    assert found.spacing == pytest.approx(spacing)


@given(st.integers(6, 40), st.floats(0.1, 10), st.data())
def test_a_slice_taken_out_is_missed_where_it_was(count: int, spacing: float, data: st.DataObject) -> None:
    gone = data.draw(st.integers(1, count - 2))
    found = stack(at(np.delete(np.arange(count), gone) * spacing), TURNED[2], 1.0)
    assert found.fault is not None
    assert found.fault.startswith(f"1 of {count} slices is missing")
    assert found.where == (gone - 1, gone)


@given(st.integers(2, 20), st.integers(0, 19), st.floats(0.1, 10))
def test_a_duplicate_is_named_with_its_twin(count: int, twin: int, spacing: float) -> None:
    twin %= count
    found = stack(at(np.append(np.arange(count), twin) * spacing), TURNED[2], 1.0)
    assert found.fault is None
    assert found.duplicates == ((twin, count),)
    assert found.order == tuple(range(count))


@given(st.integers(2, 40), st.floats(1, 30), st.floats(0, 2 * np.pi))
def test_a_tilt_is_measured(count: int, angle: float, towards: float) -> None:
    heights = 5.0 * np.arange(count)
    aside = np.outer(heights * np.tan(np.radians(angle)), [np.cos(towards), np.sin(towards)])
    found = stack(at(heights, aside), TURNED[2], 0.1)
    assert found.fault == f"the gantry was tilted by {angle:.1f} degrees, which shears the volume"

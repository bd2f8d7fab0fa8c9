"""Checks of slice positions, on generated positions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.images.formats.dicom_stack import stack

AXES = np.array(
    [[0.8, 0.6, 0.0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]]
)  # rows: row direction, column direction, normal


def at(heights: np.ndarray, in_plane: np.ndarray | None = None) -> np.ndarray:
    """(N, 3) positions along the normal of a rotated slice; `in_plane` (N, 2) shifts within it."""
    flat = np.zeros((len(heights), 2)) if in_plane is None else in_plane
    return np.column_stack([flat, heights]) @ AXES + [100, -50, 7]


@given(st.integers(2, 40), st.floats(0.1, 10), st.integers(0, 2**32 - 1))
def test_evenly_spaced_slices_are_sorted(count: int, spacing: float, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(count)
    result = stack(at(shuffled * spacing), AXES[2], 1.0)
    assert result.fault is None
    assert [shuffled[index] for index in result.order] == list(range(count))
    assert result.spacing == pytest.approx(spacing)


@given(st.integers(6, 40), st.floats(0.1, 10), st.data())
def test_a_missing_slice_is_reported_with_its_position(count: int, spacing: float, data: st.DataObject) -> None:
    missing = data.draw(st.integers(1, count - 2))
    result = stack(at(np.delete(np.arange(count), missing) * spacing), AXES[2], 1.0)
    assert result.fault is not None
    assert result.fault.startswith(f"1 of {count} slices is missing")
    assert result.where == (missing - 1, missing)


@given(st.integers(2, 20), st.integers(0, 19), st.floats(0.1, 10))
def test_a_duplicate_is_reported_with_its_original(count: int, original: int, spacing: float) -> None:
    original %= count
    result = stack(at(np.append(np.arange(count), original) * spacing), AXES[2], 1.0)
    assert result.fault is None
    assert result.duplicates == ((original, count),)
    assert result.order == tuple(range(count))


@given(st.integers(2, 40), st.floats(1, 30), st.floats(0, 2 * np.pi))
def test_the_gantry_tilt_is_measured(count: int, angle: float, direction: float) -> None:
    heights = 5.0 * np.arange(count)
    in_plane = np.outer(heights * np.tan(np.radians(angle)), [np.cos(direction), np.sin(direction)])
    result = stack(at(heights, in_plane), AXES[2], 0.1)
    measured = re.fullmatch(r"the gantry was tilted by ([\d.]+) degrees, which shears the volume", result.fault)
    assert measured
    assert float(measured[1]) == pytest.approx(angle, abs=0.051)  # rounded to one decimal

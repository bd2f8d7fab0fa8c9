from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.studies.curves import speed_up, steps_to


def slow_steps_to(steps: list[float], curve: list[float], target: float) -> float:
    if curve[0] >= target:
        return steps[0]
    for (s, a), (t, b) in zip(zip(steps, curve, strict=True), list(zip(steps, curve, strict=True))[1:], strict=False):
        if b >= target:
            return s + (target - a) / (b - a) * (t - s)
    return math.inf


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=6),
    st.floats(0, 1.2, allow_subnormal=False),
)
def test_steps_to_a_target_agree_with_a_walk_along_the_curve(curve: list[float], target: float) -> None:
    steps = [10.0 * (number + 1) for number in range(len(curve))]
    reached = steps_to(np.array(steps), np.array([curve]), np.array([target]))
    assert reached[0] == pytest.approx(slow_steps_to(steps, curve, target))


STEPS = np.array([10, 20, 30, 40, 50, 60])


def rising(until: float, seeds: int = 3, cases: int = 5, best: float = 0.8) -> np.ndarray:
    """Curves (S, T, C) that increase linearly from 0 to `best` at step `until` and stay there, equal in all cases."""
    curve = best * np.minimum(STEPS / until, 1.0)
    return np.tile(curve[None, :, None], (seeds, 1, cases))


@pytest.mark.parametrize("fraction", [0.9, 1.0])
def test_an_arm_that_needs_half_the_steps_is_twice_as_fast(fraction: float) -> None:
    result = speed_up(STEPS, rising(30), STEPS, rising(60), fraction)
    assert result.ratio == pytest.approx(2.0)
    assert (result.low, result.high) == pytest.approx((2.0, 2.0))
    assert (result.own_steps, result.other_steps) == pytest.approx((fraction * 30, fraction * 60))
    assert result.target == pytest.approx(fraction * 0.8)


def test_an_arm_that_never_reaches_the_target_has_ratio_0() -> None:
    result = speed_up(STEPS, rising(30, best=0.5), STEPS, rising(60), 0.9)
    assert math.isinf(result.own_steps)
    assert (result.ratio, result.low, result.high) == (0.0, 0.0, 0.0)
    assert result.other_steps == pytest.approx(54)


def test_an_arm_that_reaches_the_target_with_one_seed_only_has_lower_bound_0() -> None:
    own = np.concatenate([rising(30, seeds=1, best=0.9), rising(30, seeds=1, best=0.71)])
    result = speed_up(STEPS, own, STEPS, rising(60, seeds=2), 1.0)
    assert result.ratio > 1
    assert result.low == 0.0
    assert result.high > result.ratio


def test_a_target_is_reached_at_the_first_validation_at_the_earliest() -> None:
    immediate = np.full((2, 6, 3), 0.9)
    result = speed_up(STEPS, immediate, STEPS, rising(60, seeds=2, cases=3), 0.9)
    assert result.own_steps == 10
    assert result.ratio == pytest.approx(5.4)


def test_curves_validated_at_other_steps_can_be_compared() -> None:
    longer = np.array([30, 60, 90, 120])
    slow = np.tile((0.8 * longer / 120)[None, :, None], (3, 1, 5))
    assert speed_up(STEPS, rising(60), longer, slow, 1.0).ratio == pytest.approx(2.0)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.studies.analysis import crossed_interval, crossed_means, speed_up, steps_to

# What is drawn


def test_means_are_those_of_drawn_seeds_and_cases() -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5))
    means = crossed_means(values, seed=2, resamples=50)
    rng = np.random.default_rng(2)
    seeds = rng.multinomial(3, [1 / 3] * 3, 50)
    cases = rng.multinomial(5, [1 / 5] * 5, 50)
    for number in range(50):  # slowly: each drawn seed's row of each drawn case, as often as it was drawn
        rows = [s for s, times in enumerate(seeds[number]) for _ in range(times)]
        columns = [c for c, times in enumerate(cases[number]) for _ in range(times)]
        assert (len(rows), len(columns)) == (3, 5)
        picked = np.array([values[s][:, c] for s in rows for c in columns])
        np.testing.assert_allclose(means[number], picked.mean(axis=0))


def test_arms_of_the_same_seeds_and_cases_are_drawn_alike() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 7))
    np.testing.assert_allclose(crossed_means(b) - crossed_means(a), crossed_means(b - a), atol=1e-12)


def test_seeds_that_differ_widen_the_interval_over_cases() -> None:
    cases = np.random.default_rng(3).normal(size=20)
    alike, apart = np.tile(cases, (4, 1)), cases + np.array([[-1.0], [-0.5], [0.5], [1.0]])
    narrow, wide = crossed_interval(alike), crossed_interval(apart)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(4), 0
    for _ in range(200):
        scores = rng.normal(0, 1, (8, 1)) + rng.normal(0, 1, (1, 20)) + rng.normal(0, 1, (8, 20))
        low, high = crossed_interval(scores)
        hits += low <= 0 <= high
    assert 0.85 <= hits / 200 <= 0.99


def test_one_of_each_has_no_spread_and_nothing_is_refused() -> None:
    assert crossed_interval(np.array([[0.5]])) == (0.5, 0.5)
    for values in (np.empty((0, 3)), np.array([[1.0, math.nan]])):
        with pytest.raises(ValueError, match="finite values of at least one seed and one case"):
            crossed_interval(values)


# Who reaches what, and when


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
def test_steps_to_a_target_are_those_of_a_walk_along_the_curve(curve: list[float], target: float) -> None:
    steps = [10.0 * (number + 1) for number in range(len(curve))]
    found = steps_to(np.array(steps), np.array([curve]), np.array([target]))
    assert found[0] == pytest.approx(slow_steps_to(steps, curve, target))


STEPS = np.array([10, 20, 30, 40, 50, 60])


def rising(until: float, seeds: int = 3, cases: int = 5, best: float = 0.8) -> np.ndarray:
    """Curves (S, T, C) that rise straight from 0 to `best` at the step `until` and stay there, alike in all cases."""
    curve = best * np.minimum(STEPS / until, 1.0)
    return np.tile(curve[None, :, None], (seeds, 1, cases))


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_an_arm_of_double_speed_is_twice_as_fast(share: float) -> None:
    found = speed_up(STEPS, rising(30), STEPS, rising(60), share)
    assert found.ratio == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))
    assert (found.own_steps, found.other_steps) == pytest.approx((share * 30, share * 60))
    assert found.target == pytest.approx(share * 0.8)
    assert found.never == 0.0


def test_an_arm_that_never_gets_there_is_told_so() -> None:
    found = speed_up(STEPS, rising(30, best=0.5), STEPS, rising(60), 0.9)
    assert math.isinf(found.own_steps)
    assert (found.ratio, found.low, found.high, found.never) == (0.0, 0.0, 0.0, 1.0)
    assert found.other_steps == pytest.approx(54)


def test_an_arm_that_gets_there_in_some_seeds_only_has_no_lower_end() -> None:
    own = np.concatenate([rising(30, seeds=1, best=0.9), rising(30, seeds=1, best=0.71)])
    found = speed_up(STEPS, own, STEPS, rising(60, seeds=2), 1.0)
    assert found.ratio > 1
    assert found.low == 0.0  # both draws of the second seed: a quarter of all
    assert found.high > found.ratio
    assert found.never == pytest.approx(0.25, abs=0.03)


def test_nothing_is_known_before_the_first_validation() -> None:
    at_once = np.full((2, 6, 3), 0.9)
    found = speed_up(STEPS, at_once, STEPS, rising(60, seeds=2, cases=3), 0.9)
    assert found.own_steps == 10
    assert found.ratio == pytest.approx(5.4)


def test_curves_validated_at_other_steps_can_be_compared() -> None:
    longer = np.array([30, 60, 90, 120])
    slow = np.tile((0.8 * longer / 120)[None, :, None], (3, 1, 5))
    assert speed_up(STEPS, rising(60), longer, slow, 1.0).ratio == pytest.approx(2.0)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxmim.tasks.intervals import (
    bootstrap_interval,
    central,
    mean_draws,
    mean_interval,
    seed_interval,
    verdict,
)

numbers = st.floats(-10, 10)

# Over the cases of one run


def test_the_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=25)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile").confidence_interval
    ours = bootstrap_interval(values, resamples=20000)
    # The bounds themselves vary by about 2 % of the width with this number of resamples.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


def test_the_bootstrap_interval_of_many_normal_values_agrees_with_the_textbook():
    values = np.random.default_rng(1).normal(0.8, 0.1, size=400)
    error = values.std() / np.sqrt(len(values))
    assert bootstrap_interval(values, resamples=20000) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error
    )


def test_the_bootstrap_interval_contains_the_true_mean_95_times_in_100():
    samples = np.random.default_rng(2).normal(size=(300, 40))
    intervals = np.array([bootstrap_interval(sample, seed=i, resamples=400) for i, sample in enumerate(samples)])
    covered = np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0))
    assert 0.90 <= covered <= 0.98


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=20), st.integers(0, 5))
def test_the_bootstrap_interval_is_within_the_values_ordered_and_reproducible(values, seed):
    low, high = bootstrap_interval(values, seed, resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(values, seed, resamples=200)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")]])
def test_an_interval_without_finite_values_is_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values)


# Over seeds and cases. Standard deviations of seed effect, case effect and residual, as in docs/studies:

VARIANCES = {
    "difference of two arms on CT": (0.02, 0.05, 0.055),
    "difference of two arms on MR": (0.005, 0.018, 0.02),
    "seeds differ most": (0.05, 0.02, 0.02),
}


def simulated(std: tuple[float, float, float], seeds: int, cases: int, rng: np.random.Generator) -> np.ndarray:
    """Scores (S, C) whose true mean is 0."""
    shapes = ((seeds, 1), (1, cases), (seeds, cases))
    return sum(rng.normal(0, sigma, shape) for sigma, shape in zip(std, shapes, strict=True))


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("std", VARIANCES.values(), ids=VARIANCES)
def test_intervals_over_seeds_and_cases_have_the_nominal_coverage(std: tuple[float, float, float], seeds: int) -> None:
    rng, trials = np.random.default_rng(seeds), 400
    intervals = [central(mean_draws(simulated(std, seeds, 19, rng), i, 1000)) for i in range(trials)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert (
        0.925 <= covered <= 0.995
    )  # 0.95 minus two standard errors of 400 trials; conservative if seeds do not differ


def test_if_only_seeds_differ_the_interval_is_the_t_interval() -> None:
    seeds = np.array([0.1, 0.3, 0.35, 0.5])
    low, high = stats.t.interval(0.95, 3, seeds.mean(), stats.sem(seeds))
    interval = central(mean_draws(np.tile(seeds[:, None], (1, 6)), draws=200_000))
    assert interval == pytest.approx((low, high), abs=0.02 * (high - low))
    assert seed_interval(seeds[:, None]) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_of_one_seed_is_the_t_interval_over_cases() -> None:
    cases = np.random.default_rng(5).normal(0.8, 0.1, 12)
    low, high = stats.t.interval(0.95, 11, cases.mean(), stats.sem(cases))
    assert central(mean_draws(cases[None], draws=200_000)) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_two_arms_use_the_same_draws() -> None:
    a, b = np.tile([[1.0], [2.0], [4.0]], (1, 5)), np.tile([[1.5], [2.5], [4.5]], (1, 5))
    np.testing.assert_allclose(mean_draws(b) - mean_draws(a), 0.5)


def test_draws_of_a_curve_agree_with_draws_of_each_step() -> None:
    curves = np.random.default_rng(1).normal(size=(3, 4, 5))
    together = mean_draws(curves, seed=2)
    assert together.shape[1] == 4
    for step in range(4):
        np.testing.assert_allclose(together[:, step], mean_draws(curves[:, step], seed=2))


def test_the_interval_of_one_score_has_zero_width_and_no_score_is_refused() -> None:
    assert mean_interval(np.array([[0.5]])) == (0.5, 0.5)
    for values in (np.empty((0, 3)), np.array([[1.0, math.nan]])):
        with pytest.raises(ValueError, match="finite values of at least one seed and one case"):
            mean_interval(values)


@pytest.mark.parametrize(
    ("difference", "interval", "word"),
    [
        (0.012, (0.004, 0.02), "higher"),
        (-0.012, (-0.02, -0.004), "lower"),
        (0.003, (-0.004, 0.01), "no difference seen"),
        (0.012, (0.0004, 0.02), "no difference seen"),  # 0.000 as printed
    ],
)
def test_a_difference_is_reported_if_its_printed_interval_excludes_zero(difference, interval, word) -> None:
    assert verdict(difference, interval) == word

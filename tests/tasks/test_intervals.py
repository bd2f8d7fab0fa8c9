from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxmim.tasks.intervals import bootstrap_interval, difference_in_words, paired_difference

numbers = st.floats(-10, 10)


def test_the_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=25)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile").confidence_interval
    ours = bootstrap_interval(values, resamples=20000)
    # The ends themselves scatter by chance: about 2 % of the width at this many draws.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


def test_the_interval_of_many_normal_values_is_the_textbook_one():
    values = np.random.default_rng(1).normal(0.8, 0.1, size=400)
    error = values.std() / np.sqrt(len(values))
    assert bootstrap_interval(values, resamples=20000) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error
    )


def test_the_interval_holds_the_true_mean_about_95_times_in_100():
    samples = np.random.default_rng(2).normal(size=(300, 40))
    intervals = np.array([bootstrap_interval(sample, seed=i, resamples=400) for i, sample in enumerate(samples)])
    covered = np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0))
    assert 0.90 <= covered <= 0.98


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=20), st.integers(0, 5))
def test_the_interval_lies_within_the_values_is_ordered_and_repeats(values, seed):
    low, high = bootstrap_interval(values, seed, resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(values, seed, resamples=200)


def test_one_case_has_no_spread():
    assert bootstrap_interval([0.7]) == (0.7, 0.7)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")]])
def test_an_interval_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values)


def test_the_paired_difference_takes_out_how_hard_each_case_is():
    hard = np.random.default_rng(3).uniform(0, 1, size=30)
    gain = np.random.default_rng(4).normal(0.05, 0.01, size=30)
    mean, (low, high) = paired_difference(hard, hard + gain)
    assert mean == pytest.approx(gain.mean())
    assert (low, high) == pytest.approx(bootstrap_interval(gain))
    assert 0.04 < low < mean < high < 0.06


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=10))
def test_the_paired_difference_turns_its_sign_with_the_order(pairs):
    a, b = zip(*pairs, strict=True)
    mean, (low, high) = paired_difference(a, b)
    turned, (turned_low, turned_high) = paired_difference(b, a)
    assert (turned, turned_low, turned_high) == pytest.approx((-mean, -high, -low), abs=1e-9)


def test_values_of_different_cases_cannot_be_paired():
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 2, 3], [1, 2])


def test_a_difference_is_said_with_its_direction():
    a, b = [0.5, 0.6, 0.7], [0.512, 0.612, 0.712]
    assert difference_in_words("pre-trained", a, b) == "pre-trained is higher by 0.012 (95 % interval 0.012 to 0.012)"
    assert difference_in_words("scratch", b, a) == "scratch is lower by 0.012 (95 % interval 0.012 to 0.012)"


def test_no_difference_is_claimed_where_the_interval_as_printed_includes_zero():
    a = np.linspace(0.4, 0.9, 20)
    b = a + np.tile([0.023, -0.017], 10)
    mean, (low, high) = paired_difference(a, b)
    assert low < 0 < high
    assert difference_in_words("pre-trained", a, b) == (
        f"no difference seen ({mean:.3f}, 95 % interval {low:.3f} to {high:.3f})"
    )
    assert difference_in_words("x", [0.5, 0.5], [0.4999, 0.4999]) == (
        "no difference seen (0.000, 95 % interval 0.000 to 0.000)"
    )


def test_one_case_cannot_show_a_difference():
    assert difference_in_words("pre-trained", [0.5], [0.9]) == "one case cannot show a difference (0.400)"

"""How sure a mean over cases is: bootstrap intervals, and a difference said in words that keep to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COVERAGE = 0.95


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over cases.

    The cases are drawn anew, with replacement, `resamples` times; the interval holds the middle 95 % of the
    means (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It is narrow for a handful
    of cases, and one case has no spread to draw from: its interval is (value, value).

    Args:
        values: one finite number a case.
        seed: fixes the draws, so that the same values always give the same interval.
        resamples: how often the cases are drawn.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values of at least one case, but the values are {list(values)}.")
    draws = np.random.default_rng(seed).integers(sample.size, size=(resamples, sample.size))
    low, high = np.quantile(sample[draws].mean(axis=1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean of b - a over the same cases, and its 95 % bootstrap interval.

    Pairing takes out how hard each case is, so the interval is narrower than those of the two means suggest.

    Raises:
        ValueError: `a` and `b` are of different length, empty, or not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same cases, but there are {len(a)} and {len(b)} values.")
    differences = [float(second) - float(first) for first, second in zip(a, b, strict=True)]
    interval = bootstrap_interval(differences, seed)
    return float(np.mean(differences)), interval


def difference_in_words(name: str, a: Sequence[float], b: Sequence[float], seed: int = 0) -> str:
    """One plain phrase on how `name`, whose values are `b`, compares with `a` over the same cases.

    A difference is called one only where the interval, as printed to three decimals, leaves out zero:
    ``"pre-trained is higher by 0.012 (95 % interval 0.004 to 0.020)"`` or
    ``"no difference seen (0.003, 95 % interval -0.004 to 0.010)"``.

    Raises:
        ValueError: as `paired_difference`.
    """
    difference, interval = paired_difference(a, b, seed)
    if len(a) == 1:
        return f"one case cannot show a difference ({_printed(difference):.3f})"
    return in_words(name, difference, interval)


def in_words(name: str, difference: float, interval: tuple[float, float]) -> str:
    """The same of a difference and its interval, however they were found."""
    middle, low, high = _printed(difference), _printed(interval[0]), _printed(interval[1])
    if low <= 0 <= high:
        return f"no difference seen ({middle:.3f}, 95 % interval {low:.3f} to {high:.3f})"
    if low > 0:
        return f"{name} is higher by {middle:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return f"{name} is lower by {-middle:.3f} (95 % interval {-high:.3f} to {-low:.3f})"


def _printed(value: float) -> float:
    """The value as three decimals show it, without a minus before zero."""
    return round(value, 3) + 0.0

"""95 % confidence intervals of a mean: over the cases of one run, and over the cases and seeds of several runs.

Scores of S seeds on the same C cases vary with the seed and with the case: score = mean + seed effect + case effect +
residual. A bootstrap over two or three seeds is far too narrow, because it treats them as the whole population.
`mean_draws` draws each effect from a t distribution with S - 1 or C - 1 degrees of freedom instead (Behrens-Fisher; see
Kenward and Roger, Biometrics 53, 1997).
"""

from collections.abc import Sequence

import numpy as np
import scipy

COVERAGE = 0.95
DRAWS = 4000


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over cases (Efron and Tibshirani, 1993, chapter 13).

    It is too narrow for a handful of cases; for one case it is (value, value).

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values of at least one case, but the values are {list(values)}.")
    draws = np.random.default_rng(seed).integers(sample.size, size=(resamples, sample.size))
    return central(sample[draws].mean(axis=1))


def mean_draws(scores: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Draws of the mean over seeds and cases, whose quantiles are its interval.

    Each draw is the mean of `scores` plus a random seed effect and a random case effect. Both contain the residual, so
    its variance is subtracted from the case effect. With one seed only the cases vary, with one case only the seeds.
    Arrays of the same S and C use the same random numbers, so the draws of two paired arms may be subtracted or
    divided.

    Args:
        scores: (S, C) of S seeds and C cases, or (S, T, C) at each of T steps.
        seed: of the random numbers.
        draws: how many, R.

    Returns:
        (R,) or (R, T) float64.

    Raises:
        ValueError: a score is not finite, or there is none.
    """
    scores = scores.astype(np.float64)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError("an interval needs finite values of at least one seed and one case.")
    seeds, cases = scores.shape[0], scores.shape[-1]
    rng = np.random.default_rng(seed)
    seed_weights, case_weights = _t_weights(rng, draws, seeds), _t_weights(rng, draws, cases)
    seed_means, case_means, mean = scores.mean(axis=-1), scores.mean(axis=0), scores.mean(axis=(0, -1))
    case_effects = case_means - mean[..., None]
    if seeds > 1 and cases > 1:
        residuals = scores - seed_means[..., None] - case_effects
        residual_square = (residuals**2).sum(axis=(0, -1)) / ((seeds - 1) * (cases - 1))
        case_square = seeds * (case_effects**2).sum(axis=-1) / (cases - 1)
        ratio = np.divide(residual_square, case_square, out=np.ones_like(mean), where=case_square > 0)
        case_effects = case_effects * np.sqrt(np.clip(1 - ratio, 0, 1))[..., None]
    return mean + np.tensordot(seed_weights, seed_means, 1) + np.tensordot(case_weights, case_effects, (1, -1))


def mean_interval(scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of (S, C) scores over seeds and cases."""
    return central(mean_draws(scores, seed))


def seed_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % t interval of the mean over seeds of values (S, T): two arrays (T,), equal for a single seed."""
    count, mean = len(values), values.mean(axis=0)
    if count == 1:
        return mean, mean
    half = scipy.stats.t.ppf((1 + COVERAGE) / 2, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean - half, mean + half


def central(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of draws (R,); draws may be infinite, and none are interpolated."""
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    return float(low), float(high)


def verdict(difference: float, interval: tuple[float, float], digits: int = 3) -> str:
    """``higher`` or ``lower``; ``no difference seen`` if the interval, rounded as it is printed, contains zero."""
    low, high = (round(end, digits) for end in interval)
    if low <= 0 <= high:
        return "no difference seen"
    return "higher" if difference > 0 else "lower"


def _t_weights(rng: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """(draws, count) weights; a sample's weighted sum is a t-distributed error of its mean, 0 for a sample of one."""
    if count == 1:
        return np.zeros((draws, 1))
    normal = rng.standard_normal((draws, count))
    scale = np.sqrt(rng.chisquare(count - 1, (draws, 1)) / (count - 1))
    return (normal - normal.mean(axis=1, keepdims=True)) / np.sqrt(count * (count - 1)) / scale

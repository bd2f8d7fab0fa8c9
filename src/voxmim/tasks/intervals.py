"""95 % intervals of a mean: over cases of one run, and over cases and seeds of several.

Runs with S seeds scored on the same C cases give a table of scores. Another seed would score otherwise, and so would
other patients: a score is mean + seed effect + case effect + rest. With two or three seeds a bootstrap over them is far
too narrow, since it takes the few seeds for all that there are. `mean_draws` gives each effect a t distribution with as
many degrees of freedom as the scores have (Behrens-Fisher; Kenward and Roger, Biometrics 53, 1997, discuss the case).
"""

from collections.abc import Sequence

import numpy as np
import scipy

COVERAGE = 0.95
DRAWS = 4000


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over cases (Efron and Tibshirani, 1993, chapter 13).

    It is narrow for a handful of cases; for one case it is (value, value).

    Raises:
        ValueError: no values, or one that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values of at least one case, but the values are {list(values)}.")
    draws = np.random.default_rng(seed).integers(sample.size, size=(resamples, sample.size))
    return central(sample[draws].mean(axis=1))


def mean_draws(scores: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Draws of the mean over seeds and cases, whose quantiles are its interval.

    Each draw adds to the mean of `scores` a seed effect, of the covariance that the seeds show and S - 1 degrees of
    freedom, and a case effect with C - 1. Both effects contain the rest, which is taken out of the second. Scores of
    one seed vary by cases only, and scores of one case by seeds only. Arrays of the same S and C are drawn alike, so
    that draws of two paired arms may be subtracted or divided.

    Scores are (S, C) of S seeds and C cases, or (S, T, C) at each of T steps; the R draws (R,) or (R, T) float64.

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
        rest = scores - seed_means[..., None] - case_effects
        rest_square = (rest**2).sum(axis=(0, -1)) / ((seeds - 1) * (cases - 1))
        case_square = seeds * (case_effects**2).sum(axis=-1) / (cases - 1)
        ratio = np.divide(rest_square, case_square, out=np.ones_like(mean), where=case_square > 0)
        case_effects = case_effects * np.sqrt(np.clip(1 - ratio, 0, 1))[..., None]
    return mean + np.tensordot(seed_weights, seed_means, 1) + np.tensordot(case_weights, case_effects, (1, -1))


def mean_interval(scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of (S, C) scores over seeds and cases."""
    return central(mean_draws(scores, seed))


def seed_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % t interval of the mean over seeds, of values (S, T): two arrays (T,). One seed has no width."""
    count, mean = len(values), values.mean(axis=0)
    if count == 1:
        return mean, mean
    half = scipy.stats.t.ppf((1 + COVERAGE) / 2, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean - half, mean + half


def central(draws: np.ndarray) -> tuple[float, float]:
    """Where the middle 95 % of draws (R,) lie; infinite draws count, and no draw is interpolated."""
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    return float(low), float(high)


def verdict(difference: float, interval: tuple[float, float], digits: int = 3) -> str:
    """``higher``, ``lower`` or ``no difference seen``, by whether the interval as printed contains zero."""
    low, high = (round(end, digits) for end in interval)
    if low <= 0 <= high:
        return "no difference seen"
    return "higher" if difference > 0 else "lower"


def _t_weights(rng: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """(draws, count) weights of a sample, whose weighted sum is its mean's error by the t distribution; 0 for one."""
    if count == 1:
        return np.zeros((draws, 1))
    normal = rng.standard_normal((draws, count))
    scale = np.sqrt(rng.chisquare(count - 1, (draws, 1)) / (count - 1))
    return (normal - normal.mean(axis=1, keepdims=True)) / np.sqrt(count * (count - 1)) / scale

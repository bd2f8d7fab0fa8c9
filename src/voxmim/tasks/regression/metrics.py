"""Scores of the numbers that a regressor gave scans, with percentile bootstrap intervals over cases."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from voxmim.tasks.intervals import central
from voxmim.tasks.metrics import Metric

CONVENTION = (
    "Each scan counts once. MAE: the mean absolute error. R²: 1 minus the sum of the squared errors over that of the "
    "distances to the mean of these scans; 0 is no better than that mean. Intervals: 95 % bootstrap over cases. The "
    "constant guess is the mean of the training cases."
)
RESAMPLES = 2000


def mean_absolute_error(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(..., N) values and predictions to (...) mean absolute errors."""
    return np.abs(truth - predicted).mean(axis=-1)


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(..., N) values and predictions to (...) coefficients of determination; NaN where the values are all the same."""
    errors = ((truth - predicted) ** 2).sum(axis=-1)
    total = ((truth - truth.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - errors / np.where(total > 0, total, np.nan)


METRICS = {
    "mae": Metric(mean_absolute_error, "MAE", "", 3, higher_is_better=False),
    "r2": Metric(r_squared, "R²", "", 3, higher_is_better=True),
}


def summarise(
    truth: Mapping[str, float], predicted: Mapping[str, float], guess: float, seed: int = 0
) -> dict[str, Any]:
    """All scores, from the values of the cases, with 95 % intervals, as plain lists and numbers ready for JSON.

    Returns:
        ``{"mae": {"value", "ci95", "chance"}, "r2": {the same}, "cases": [{"case", "value", "predicted"}]}``, where
        ``chance`` is the score of the constant guess, and None stands where a score or an interval is not defined.
    """
    values, given = (np.array([one[name] for name in truth], dtype=float) for one in (truth, predicted))
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return {
        **{name: _scores(metric.function, values, given, guess, draws) for name, metric in METRICS.items()},
        "cases": [{"case": name, "value": float(truth[name]), "predicted": float(predicted[name])} for name in truth],
    }


def _scores(
    score: Callable[..., np.ndarray], values: np.ndarray, given: np.ndarray, guess: float, draws: np.ndarray
) -> dict[str, Any]:
    drawn = score(values[draws], given[draws])
    drawn = drawn[np.isfinite(drawn)]
    found, chance = float(score(values, given)), float(score(values, np.full_like(values, guess)))
    return {
        "value": found if np.isfinite(found) else None,
        "ci95": list(central(drawn)) if np.isfinite(found) and len(drawn) and len(values) > 1 else None,
        "chance": chance if np.isfinite(chance) else None,
    }

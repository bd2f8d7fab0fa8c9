"""Metrics of a regressor, with percentile bootstrap intervals over cases."""

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
    """Mean absolute errors (...) of values and predictions (..., N)."""
    return np.abs(truth - predicted).mean(axis=-1)


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Coefficients of determination (...) of values and predictions (..., N); NaN if all values are the same."""
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
    """All scores of the cases' values, with 95 % intervals, for JSON.

    Returns:
        ``{"mae": {"value", "ci95", "chance"}, "r2": {the same}, "cases": [{"case", "value", "predicted"}]}``, where
        ``chance`` is the score of the constant guess; a score or interval that is not defined is None.
    """
    values = np.array(list(truth.values()), dtype=float)
    outputs = np.array([predicted[name] for name in truth], dtype=float)
    samples = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return {
        **{name: _scores(metric.function, values, outputs, guess, samples) for name, metric in METRICS.items()},
        "cases": [{"case": name, "value": float(truth[name]), "predicted": float(predicted[name])} for name in truth],
    }


def _scores(
    score: Callable[..., np.ndarray], values: np.ndarray, outputs: np.ndarray, guess: float, samples: np.ndarray
) -> dict[str, Any]:
    resampled = score(values[samples], outputs[samples])
    resampled = resampled[np.isfinite(resampled)]
    value, chance = float(score(values, outputs)), float(score(values, np.full_like(values, guess)))
    return {
        "value": value if np.isfinite(value) else None,
        "ci95": list(central(resampled)) if np.isfinite(value) and len(resampled) and len(values) > 1 else None,
        "chance": chance if np.isfinite(chance) else None,
    }

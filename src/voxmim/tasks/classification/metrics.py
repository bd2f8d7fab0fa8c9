"""Scores of the classes that a classifier gave whole scans.

- AUROC: the chance that of two scans, one of the class and one of another, the first has the higher probability of the
  class; a tie counts half (the Mann-Whitney statistic). With more than two classes, the mean over classes, each against
  the rest.
- Balanced accuracy: the mean over classes of the sensitivity, the fraction of its scans that were recognised.

The intervals are percentile bootstrap intervals over cases, drawn class by class, so that no draw lacks a class.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from voxmim.tasks.intervals import COVERAGE
from voxmim.tasks.metrics import Metric

CONVENTION = (
    "Each scan counts once. AUROC: the chance that a scan of the class has a higher probability of it than a scan of "
    "another; with more than two classes, the mean of each against the rest. Balanced accuracy: the mean sensitivity "
    "of the classes, the most probable class being predicted. Intervals: 95 % bootstrap over cases, drawn class by "
    "class; a perfect score has no width. A class without a case is not counted."
)
RESAMPLES = 2000


def auroc(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, the mean over the classes that are there.

    Args:
        truth: (N,) the class of each case, from 0.
        probabilities: (..., N, K) of each class.

    Returns:
        (...) 0 to 1; NaN where there is only one class.
    """
    present = np.unique(truth)
    if len(present) < 2:
        return np.full(probabilities.shape[:-2], np.nan)
    ranks = scipy.stats.rankdata(probabilities, axis=-2)
    areas = []
    for k in present:
        of_class = truth == k
        positive, negative = of_class.sum(), (~of_class).sum()
        won = ranks[..., of_class, k].sum(-1) - positive * (positive + 1) / 2
        areas.append(won / (positive * negative))
    return np.mean(areas, axis=0)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean sensitivity over the classes that are there.

    Args:
        truth: (N,) the class of each case, from 0.
        predicted: (..., N) the class given to it.

    Returns:
        (...) 0 to 1.
    """
    return np.mean([np.mean(predicted[..., truth == k] == k, axis=-1) for k in np.unique(truth)], axis=0)


METRICS = {
    "auroc": Metric(auroc, "AUROC", "", 3, higher_is_better=True),
    "balanced_accuracy": Metric(
        lambda truth, probabilities: balanced_accuracy(truth, probabilities.argmax(-1)),
        "balanced accuracy", "", 3, higher_is_better=True,
    ),
}  # fmt: skip


def summarise(
    classes: Sequence[str], truth: Mapping[str, str], probabilities: Mapping[str, Sequence[float]], seed: int = 0
) -> dict[str, Any]:
    """All scores, from the class and the probabilities (K,) of each case, with 95 % intervals, ready for JSON.

    Returns:
        ``{"classes", "auroc": {"value", "ci95", "chance"}, "balanced_accuracy": {the same}, "sensitivity": {class:
        {"value", "cases"}}, "confusion": [[cases of class i that were called j]], "cases": [{"case", "class",
        "predicted", "probabilities": {class: p}}]}``. ``chance`` is the value of a constant guess; None stands
        where nothing was counted.
    """
    names = list(truth)
    index = np.array([classes.index(truth[name]) for name in names])
    given = np.array([probabilities[name] for name in names])
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (index, given.argmax(1)), 1)
    draws = _draws(index, seed)
    present = len(np.unique(index))
    chance = {"auroc": 0.5, "balanced_accuracy": 1 / present}
    return {
        "classes": list(classes),
        **{
            name: {
                "value": float(metric.function(index, given)),
                "ci95": _interval(lambda rows, of=metric.function: of(index, given[rows]), draws),  # type: ignore[misc]
                "chance": chance[name],
            }
            if present > 1 or name != "auroc"
            else {"value": None, "ci95": None, "chance": chance[name]}
            for name, metric in METRICS.items()
        },
        "sensitivity": {
            name: {"value": float(confusion[k, k] / confusion[k].sum()) if k in index else None,
                   "cases": int(confusion[k].sum())}
            for k, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "cases": [{"case": name, "class": truth[name], **described(classes, probabilities[name])} for name in names],
    }  # fmt: skip


def described(classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """The class that is predicted of a scan, and the probability of each of the K."""
    return {
        "predicted": classes[int(np.argmax(probabilities))],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }


def _draws(truth: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES, N) cases drawn with replacement, in each place one of the class of the case that was there."""
    rng = np.random.default_rng(seed)
    draws = np.empty((RESAMPLES, len(truth)), dtype=int)
    for k in np.unique(truth):
        cases = np.flatnonzero(truth == k)
        draws[:, cases] = rng.choice(cases, (RESAMPLES, len(cases)))
    return draws


def _interval(figure: Callable[[np.ndarray], np.ndarray], draws: np.ndarray) -> list[float]:
    """The middle 95 % of a figure over the draws, a hundred at a time to stay small in memory."""
    values = np.concatenate([figure(draws[first : first + 100]) for first in range(0, len(draws), 100)])
    return [float(edge) for edge in np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])]

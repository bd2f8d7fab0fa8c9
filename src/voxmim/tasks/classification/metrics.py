"""Metrics of a classifier of whole scans.

- AUROC: the probability that a scan of the class has a higher score than a scan of another class; a tie counts half
  (the Mann-Whitney statistic). With more than two classes, the mean over classes, each against the rest.
- Balanced accuracy: the mean over classes of the sensitivity, the fraction of the class's scans that are recognised.

The intervals are percentile bootstrap intervals over cases, stratified by class, so that no sample lacks a class.
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
    """Area under the ROC curve, averaged over the classes in `truth`.

    Args:
        truth: (N,) the class of each case, from 0.
        probabilities: (..., N, K) of each class.

    Returns:
        (...) 0 to 1; NaN if there is only one class.
    """
    present = np.unique(truth)
    if len(present) < 2:
        return np.full(probabilities.shape[:-2], np.nan)
    ranks = scipy.stats.rankdata(probabilities, axis=-2)
    areas = []
    for k in present:
        is_k = truth == k
        positive, negative = is_k.sum(), (~is_k).sum()
        wins = ranks[..., is_k, k].sum(-1) - positive * (positive + 1) / 2
        areas.append(wins / (positive * negative))
    return np.mean(areas, axis=0)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean sensitivity over the classes in `truth`.

    Args:
        truth: (N,) the class of each case, from 0.
        predicted: (..., N) its predicted class.

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
    """All scores of the cases' classes and probabilities (K,), with 95 % intervals, for JSON.

    Returns:
        ``{"classes", "auroc": {"value", "ci95", "chance"}, "balanced_accuracy": {the same}, "sensitivity": {class:
        {"value", "cases"}}, "confusion": [[cases of class i predicted as j]], "cases": [{"case", "class",
        "predicted", "probabilities": {class: p}}]}``. ``chance`` is the score of a constant guess; a value that is not
        defined is None.
    """
    names = list(truth)
    targets = np.array([classes.index(truth[name]) for name in names])
    predicted = np.array([probabilities[name] for name in names])
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (targets, predicted.argmax(1)), 1)
    samples = _stratified_samples(targets, seed)
    present = len(np.unique(targets))
    scores: dict[str, Any] = {
        "auroc": {"value": None, "ci95": None, "chance": 0.5},
        "balanced_accuracy": {"value": None, "ci95": None, "chance": 1 / present},
    }
    for name, metric in METRICS.items():
        if present > 1 or name != "auroc":
            scores[name]["value"] = float(metric.function(targets, predicted))
            scores[name]["ci95"] = _interval(metric.function, targets, predicted, samples)
    sensitivity = {}
    for k, name in enumerate(classes):
        cases = int(confusion[k].sum())
        sensitivity[name] = {"value": float(confusion[k, k] / cases) if cases else None, "cases": cases}
    return {
        "classes": list(classes),
        **scores,
        "sensitivity": sensitivity,
        "confusion": confusion.tolist(),
        "cases": [{"case": name, "class": truth[name], **described(classes, probabilities[name])} for name in names],
    }


def described(classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """The predicted class of a scan and the probability of each of the K classes."""
    return {
        "predicted": classes[int(np.argmax(probabilities))],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }


def _stratified_samples(truth: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES, N) indices of cases drawn with replacement; each case is replaced by one of its own class."""
    rng = np.random.default_rng(seed)
    samples = np.empty((RESAMPLES, len(truth)), dtype=int)
    for k in np.unique(truth):
        cases = np.flatnonzero(truth == k)
        samples[:, cases] = rng.choice(cases, (RESAMPLES, len(cases)))
    return samples


def _interval(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    truth: np.ndarray,
    probabilities: np.ndarray,
    samples: np.ndarray,
) -> list[float]:
    """The central 95 % of a score over the samples, computed 100 at a time to save memory."""
    values = [score(truth, probabilities[samples[i : i + 100]]) for i in range(0, len(samples), 100)]
    return np.quantile(np.concatenate(values), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]).tolist()

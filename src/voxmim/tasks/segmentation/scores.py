"""Scores of predicted label maps per case and structure (label or region), and their means over cases."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from voxmim.tasks.intervals import bootstrap_interval
from voxmim.tasks.metrics import MAIN, METRICS, Masks

Scores = dict[str, float | None]
"""The value of each metric of one structure in one case; None if the structure is not counted."""

_Box = tuple[slice, slice, slice]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    parts: Mapping[str, Sequence[int]],
    spacing: Sequence[float] | np.ndarray,
    tolerance_mm: float = 2.0,
    metrics: Iterable[str] | None = None,
) -> dict[str, Scores]:
    """Score a predicted label map against a reference; `metrics.convention` says how structures are counted.

    A structure is scored inside its bounding box in both maps. The result is that of the whole volume, because the
    outside of a box and the outside of an image are both background.

    Args:
        prediction: (X, Y, Z) uint8.
        reference: (X, Y, Z) uint8.
        parts: the label values of each structure.
        spacing: the voxel size in mm.
        tolerance_mm: of the surface Dice.
        metrics: keys of `METRICS`; None for all.

    Raises:
        ValueError: the two label maps are not 3D or differ in shape.
    """
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(
            f"two label maps of one (X, Y, Z) shape are needed, but the prediction has {prediction.shape} "
            f"and the reference {reference.shape}."
        )
    chosen = {name: METRICS[name] for name in metrics or METRICS}
    sizes_mm = tuple(float(size) for size in spacing)
    diagonal = float(np.linalg.norm(np.multiply(reference.shape, sizes_mm)))
    predicted_boxes, reference_boxes = scipy.ndimage.find_objects(prediction), scipy.ndimage.find_objects(reference)
    scores: dict[str, Scores] = {}
    for part, values in parts.items():
        box, other = _box_of(predicted_boxes, values), _box_of(reference_boxes, values)
        if box is None and other is None:
            scores[part] = dict.fromkeys(chosen)
        elif box is None or other is None:
            scores[part] = {
                name: diagonal if metric.absent is None else metric.absent for name, metric in chosen.items()
            }
        else:
            joint = _joined([box, other])
            masks = Masks(np.isin(prediction[joint], values), np.isin(reference[joint], values), sizes_mm, tolerance_mm)
            scores[part] = {name: metric.function(masks) for name, metric in chosen.items()}
    return scores


def without(label_map: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """A label map (X, Y, Z) with background in unknown voxels, so that they are not scored."""
    return np.where(unknown, 0, label_map) if unknown.any() else label_map


def summarise(cases: Mapping[str, Mapping[str, Scores]], seed: int = 0) -> dict[str, Any]:
    """Means over cases with the 95 % bootstrap interval of the main metric, for JSON.

    The mean over all labels is first taken over each case's counted labels and then over cases, so all cases weigh the
    same. A mean of nothing is None.

    Args:
        cases: the result of `score_case` by case name.
        seed: of the bootstrap.

    Returns:
        ``{"mean": {metric: x, "ci95"}, "labels": {name: {metric: x, "ci95", "cases": counted cases}},
        "cases": [{"case", metric: {name: x}, "mean_dice"}]}``, where ``ci95`` is the interval [low, high] of the Dice.
    """
    names = dict.fromkeys(name for scores in cases.values() for name in scores)
    by_label = {name: [scores[name] for scores in cases.values() if name in scores] for name in names}
    means = [
        {metric: _mean(score[metric] for score in scores.values()) for metric in METRICS} for scores in cases.values()
    ]
    return {
        "mean": _mean_row(means, seed),
        "labels": {
            name: {**_mean_row(scores, seed), "cases": sum(score[MAIN] is not None for score in scores)}
            for name, scores in by_label.items()
        },
        "cases": [
            {
                "case": case,
                **{metric: {name: score[metric] for name, score in scores.items()} for metric in METRICS},
                f"mean_{MAIN}": mean[MAIN],
            }
            for (case, scores), mean in zip(cases.items(), means, strict=True)
        ],
    }


def _mean_row(rows: Sequence[Scores], seed: int) -> dict[str, Any]:
    counted = [value for row in rows if (value := row[MAIN]) is not None]
    interval = list(bootstrap_interval(counted, seed)) if counted else None
    return {**{metric: _mean(row[metric] for row in rows) for metric in METRICS}, "ci95": interval}


def _mean(values: Iterable[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return float(np.mean(counted)) if counted else None


def _box_of(boxes: Sequence[_Box | None], values: Sequence[int]) -> _Box | None:
    """The bounding box of label values; `boxes` are `find_objects`', of values from 1 to the largest in the map."""
    found = [box for value in values if value <= len(boxes) and (box := boxes[value - 1]) is not None]
    return _joined(found) if found else None


def _joined(boxes: Sequence[_Box]) -> _Box:
    x, y, z = (slice(min(p.start for p in axis), max(p.stop for p in axis)) for axis in zip(*boxes, strict=True))
    return x, y, z

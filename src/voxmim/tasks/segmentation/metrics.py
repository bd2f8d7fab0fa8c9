"""Scores of a label map against its reference, per case and per label or region, in the scan's own geometry.

Dice is the overlap of volumes. The other two compare surfaces, as MONAI defines them: the surface of a label
is the set of its voxels that share a face with a voxel of another label or with the outside of the image (the
label minus its binary erosion by one voxel, 6 neighbours); so an organ cut off by the field of view has a
surface there. Distances run from centre to centre of surface voxels, in mm.

- HD95: the 95th percentile (linear between ranks) of the distances from the predicted surface to the
  reference surface, and the same the other way round; the larger of the two. Not the percentile of both pooled.
- NSD: the share of surface voxels, of both surfaces together, that lie within the tolerance of the other
  surface (Nikolov et al., arXiv 1809.04430), each voxel counting one whatever surface area it stands for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import find_objects

from voxmim.tasks.intervals import bootstrap_interval

CONVENTION = (
    "Scored per case and per label in the scan's own geometry, without background; a region is scored as one label. "
    "A label that is absent from the reference is not counted where it is predicted absent too; a label that only one "
    "of the two label maps holds scores Dice 0, NSD 0 and, as HD95, the scan's diagonal."
)

# Added to the tolerance: voxel sizes taken from a float32 affine are off in the seventh digit, and a distance of
# exactly the tolerance must not fall on either side of it by chance.
_ROUNDING_MM = 1e-4

_Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class LabelScore:
    """Scores of one label or region in one case; all three are None where the label is not counted.

    Attributes:
        dice: 0 to 1.
        hd95_mm: 95 % Hausdorff distance in mm, 0 is best.
        nsd: normalised surface Dice, 0 to 1.
    """

    dice: float | None
    hd95_mm: float | None
    nsd: float | None


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    parts: Mapping[str, Sequence[int]],
    spacing: Sequence[float] | np.ndarray,
    tolerance_mm: float,
) -> dict[str, LabelScore]:
    """Score one predicted label map, structure by structure, following `CONVENTION`.

    Everything is computed inside the smallest box that holds the structure in both maps. That gives the same as the
    whole volume, because beyond the box there is only background, which is also what lies outside the image.

    Args:
        prediction: (X, Y, Z) uint8 label map.
        reference: (X, Y, Z) uint8 label map.
        parts: the name of each label or region to score, and the label values that make it up together.
        spacing: (3,) voxel size in mm along X, Y, Z.
        tolerance_mm: how far a surface voxel may lie from the other surface and still be right for the NSD.

    Returns:
        The score of each by its name, in the order of `parts`.

    Raises:
        ValueError: the two label maps are not 3D or differ in shape.
    """
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(
            f"two label maps of one (X, Y, Z) shape are meant, but the prediction has {prediction.shape} "
            f"and the reference {reference.shape}."
        )
    sizes_mm = [float(size) for size in spacing]
    diagonal = float(np.linalg.norm(np.multiply(reference.shape, sizes_mm)))
    predicted_boxes, reference_boxes = find_objects(prediction), find_objects(reference)
    scores = {}
    for name, values in parts.items():
        box, other = _box_of(predicted_boxes, values), _box_of(reference_boxes, values)
        if box is None and other is None:
            scores[name] = LabelScore(None, None, None)
        elif box is None or other is None:
            scores[name] = LabelScore(0.0, diagonal, 0.0)
        else:
            joint = _joined([box, other])
            masks = np.isin(prediction[joint], values), np.isin(reference[joint], values)
            scores[name] = _score_masks(*masks, sizes_mm, tolerance_mm)
    return scores


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Dice of two masks, (X, Y, Z) bool; None where both are empty."""
    voxels = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return float(2 * np.count_nonzero(prediction & reference) / voxels) if voxels else None


def summarise(cases: Mapping[str, Mapping[str, LabelScore]], seed: int = 0) -> dict[str, Any]:
    """Means over cases with their 95 % bootstrap intervals, as plain lists and numbers ready for JSON.

    The mean over all labels is the mean over cases of each case's mean over its counted labels, so every case
    weighs the same. Where nothing was counted there stands None.

    Args:
        cases: what `score_case` gave, by the name of the case.
        seed: of the bootstrap.

    Returns:
        ``{"mean": {"dice", "hd95_mm", "nsd", "ci95"}, "labels": {name: {the same, and "cases": how many counted}},
        "cases": [{"case", "dice": {name: x}, "hd95_mm": {...}, "nsd": {...}, "mean_dice"}]}``,
        where ``ci95`` is the interval [low, high] of the Dice beside it.
    """
    names = dict.fromkeys(name for scores in cases.values() for name in scores)
    by_label = {name: [scores[name] for scores in cases.values() if name in scores] for name in names}
    return {
        "mean": {
            "dice": _mean(_case_means(cases, "dice")),
            "hd95_mm": _mean(_case_means(cases, "hd95_mm")),
            "nsd": _mean(_case_means(cases, "nsd")),
            "ci95": _interval(_case_means(cases, "dice"), seed),
        },
        "labels": {
            name: {
                "dice": _mean(score.dice for score in scores),
                "hd95_mm": _mean(score.hd95_mm for score in scores),
                "nsd": _mean(score.nsd for score in scores),
                "ci95": _interval([score.dice for score in scores], seed),
                "cases": sum(score.dice is not None for score in scores),
            }
            for name, scores in by_label.items()
        },
        "cases": [
            {
                "case": case,
                "dice": {name: score.dice for name, score in scores.items()},
                "hd95_mm": {name: score.hd95_mm for name, score in scores.items()},
                "nsd": {name: score.nsd for name, score in scores.items()},
                "mean_dice": _mean(score.dice for score in scores.values()),
            }
            for case, scores in cases.items()
        ],
    }


def _score_masks(
    prediction: np.ndarray, reference: np.ndarray, spacing: list[float], tolerance_mm: float
) -> LabelScore:
    """Scores of one structure from its two masks, (X, Y, Z) bool, neither of them empty."""
    pair = torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls one of its own functions as it advises not to
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(*pair, [tolerance_mm + _ROUNDING_MM], include_background=True, spacing=spacing)
    return LabelScore(dice(prediction, reference), float(hd95), float(nsd))


def _box_of(boxes: Sequence[_Box | None], values: Sequence[int]) -> _Box | None:
    """The box round label values among `find_objects`' boxes, which start at value 1 and end at the largest found."""
    found = [box for value in values if value <= len(boxes) and (box := boxes[value - 1]) is not None]
    return _joined(found) if found else None


def _joined(boxes: Sequence[_Box]) -> _Box:
    """The smallest box around several."""
    x, y, z = (slice(min(p.start for p in axis), max(p.stop for p in axis)) for axis in zip(*boxes, strict=True))
    return x, y, z


def _case_means(cases: Mapping[str, Mapping[str, LabelScore]], metric: str) -> list[float | None]:
    return [_mean(getattr(score, metric) for score in scores.values()) for scores in cases.values()]


def _mean(values: Iterable[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return float(np.mean(counted)) if counted else None


def _interval(values: Iterable[float | None], seed: int) -> list[float] | None:
    counted = [value for value in values if value is not None]
    return list(bootstrap_interval(counted, seed)) if counted else None

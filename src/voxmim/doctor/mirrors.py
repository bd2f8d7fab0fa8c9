"""Detecting mirrored scans and label maps by comparing them with the others.

Scans are compared by their overviews (`Facts.coarse`), label maps by the centres of their labels as fractions of the
scan's extent, both unchanged and mirrored along each axis. A case is reported if it fits the others badly unless it is
mirrored, and the others fit each other. So nearly symmetric anatomy and scans of different regions are never reported,
nor are mirrored scans if too many of the others are mirrored too.
"""

from collections.abc import Mapping

import numpy as np

from voxmim.doctor.facts import Facts

MIN_CASES = 5  # to compare with
_MIN_FIT, _MIN_GAIN = 0.6, 0.4  # correlations: of a mirrored scan that fits, and minus that of the unmirrored scan
_MIN_STD = 0.03  # of label centres along an axis, as a fraction of the extent, to detect mirroring
_MIN_DISTANCE = 0.12  # of a label from its mirror image, as a fraction of the extent, to detect mirroring
_MIN_RATIO, _MIN_RATIO_ALONE = 4, 8  # of the effect of mirroring to the variation of slopes, and of positions
_MIN_CORRELATION = 0.8  # of the centres with those of the mirror image
_MAX_OFF = 0.3  # from the mirror image, as a fraction of its distance


def mirrored_scans(facts: Mapping[str, Facts]) -> dict[str, set[int]]:
    """The axes (0 right, 1 anterior, 2 superior) along which scans are mirrored, by name of the mirrored scans."""
    found: dict[str, set[int]] = {}
    if len(facts) < MIN_CASES:
        return found
    views = np.array([each.coarse() for each in facts.values()])
    median = np.median(views, axis=0)
    unmirrored = _correlation(views, median)
    for axis in range(3) if np.median(unmirrored) >= _MIN_FIT else ():
        mirrored = _correlation(np.flip(views, axis=1 + axis), median)
        for name, before, after in zip(facts, unmirrored, mirrored, strict=True):
            if after >= _MIN_FIT and after - before >= _MIN_GAIN:
                found.setdefault(name, set()).add(axis)
    return found


def mirrored_labels(facts: Mapping[str, Facts]) -> dict[str, set[int]]:
    """Like `mirrored_scans`, for label maps."""
    values = sorted({value for each in facts.values() for value in each.labels})
    names = [name for name, each in facts.items() if each.labels]
    centres = np.full((len(names), len(values), 3), np.nan)
    for row, name in enumerate(names):
        for value, label in facts[name].labels.items():
            centres[row, values.index(value)] = label.centre
    common = np.isfinite(centres[..., 0]).sum(axis=0) >= MIN_CASES
    found: dict[str, set[int]] = {}
    if not common.any():
        return found
    centres = centres[:, common]
    median = np.nanmedian(centres, axis=0)
    for method in (_by_relative_position, _by_position):
        decided, mirrored = method(centres, median)
        for row, axis in np.argwhere(mirrored):
            found.setdefault(names[row], set()).add(int(axis))
        centres = np.where(decided[:, None], np.nan, centres)  # the first method is the more reliable one
    return found


def _by_relative_position(centres: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare the positions (cases, labels, 3) of labels relative to each other.

    The slope of a case's centres over the `usual` ones (labels, 3) is near 1, however the scan was cropped, and near -1
    in a mirror image. Returns two arrays (cases, 3): whether the labels are far enough apart, and whether mirrored.
    """
    known = np.isfinite(centres)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)

    def centred(values: np.ndarray) -> np.ndarray:
        mean = np.where(known, values, 0).sum(axis=1, keepdims=True) / count
        return np.where(known, values - mean, 0)

    own, other = centred(centres), centred(np.broadcast_to(usual, centres.shape))
    power = np.maximum((other**2).sum(axis=1), 1e-12)
    slope = (own * other).sum(axis=1) / power
    correlation = slope * np.sqrt(power / np.maximum((own**2).sum(axis=1), 1e-12))
    spread_out = np.sqrt(power / count[:, 0]) >= _MIN_STD
    median, std = np.array([_robust(slope[spread_out[:, axis], axis]) for axis in range(3)]).T
    decided = spread_out & (_MIN_RATIO * std <= median)
    return decided, decided & (slope <= -median / 2) & (correlation <= -_MIN_CORRELATION)


def _by_position(centres: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare the positions of labels in the scan, even of a single label if it is off the middle.

    Arguments and result are those of `_by_relative_position`.
    """
    known = np.isfinite(centres)
    count = np.maximum(known.sum(axis=1), 1)
    distances = (centres - usual, 1 - centres - usual, np.broadcast_to(1 - 2 * usual, centres.shape))
    off, mirrored_off, gap = (np.where(known, np.abs(each), 0).sum(axis=1) / count for each in distances)
    decided = gap >= np.maximum(_MIN_DISTANCE, _MIN_RATIO_ALONE * np.median(off, axis=0))
    return decided, decided & (mirrored_off <= _MAX_OFF * gap) & (off >= (1 - _MAX_OFF) * gap)


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Median and robust std; with too few values, the std is infinite."""
    if len(values) < MIN_CASES:
        return 0.0, np.inf
    return float(np.median(values)), float(1.4826 * np.median(np.abs(values - np.median(values))))


def _correlation(views: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """The correlation of each view with the usual one; 0 for a constant view."""
    rows, other = views.reshape(len(views), -1), usual.ravel() - usual.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(other)
    return np.asarray(rows @ other / np.maximum(norms, 1e-12))

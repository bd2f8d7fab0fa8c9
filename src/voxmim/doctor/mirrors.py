"""Scans and label maps that are mirrored, found by comparing them with the others.

A scan is compared by its overview (`Facts.coarse`), a label map by the centres of its labels as fractions of the scan's
extent; each as it is, and mirrored along each axis. A case is reported only if it fits the others badly as it is and
well when mirrored, and the others fit each other. So nearly symmetric anatomy and scans of different regions are never
reported, nor are mirror images when too many of the others are mirrored too.
"""

from collections.abc import Mapping

import numpy as np

from voxmim.doctor.facts import Facts

MIN_CASES = 5  # to compare with
_ALIKE, _APART = 0.6, 0.4  # correlations: what counts as a fit, and how much worse the unmirrored scan must fit
_GAP = 0.03  # fraction of the extent: the std of label centres along an axis that is enough to tell its sides
_WIDE = 0.12  # fraction of the extent: distance of one label to its mirror image that is enough
_CLEAR, _CLEARER = 4, 8  # times the usual variation that a mirror image must be off; for single labels, crops add to it
_SURE = 0.8  # correlation of the centres with those of the mirror image
_NEAR = 0.3  # of the distance to the mirror image: how close to it, and no closer to the usual place


def mirrored_scans(facts: Mapping[str, Facts]) -> dict[str, set[int]]:
    """The axes (0 right, 1 anterior, 2 superior) along which a scan is mirrored, by the name of each mirrored one."""
    found: dict[str, set[int]] = {}
    if len(facts) < MIN_CASES:
        return found
    views = np.array([each.coarse() for each in facts.values()])
    usual = np.median(views, axis=0)
    as_is = _correlation(views, usual)
    for axis in range(3) if np.median(as_is) >= _ALIKE else ():
        mirrored = _correlation(np.flip(views, axis=1 + axis), usual)
        for name, own, other in zip(facts, as_is, mirrored, strict=True):
            if other >= _ALIKE and other - own >= _APART:
                found.setdefault(name, set()).add(axis)
    return found


def mirrored_labels(facts: Mapping[str, Facts]) -> dict[str, set[int]]:
    """As `mirrored_scans`, for label maps."""
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
    places = centres[:, common]
    usual = np.nanmedian(places, axis=0)
    for method in (_by_each_other, _by_place):
        known, mirrored = method(places, usual)
        for row, axis in np.argwhere(mirrored):
            found.setdefault(names[row], set()).add(int(axis))
        places = np.where(known[:, None], np.nan, places)  # the first method is the surer one
    return found


def _by_each_other(places: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cases, 3) where the centres (cases, labels, 3) relative to each other tell sides, and where these are mirrored.

    The slope of a case's centres over the usual ones is near 1, however it was cropped, and near -1 in a mirror image.
    """
    known = np.isfinite(places)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)

    def centred(values: np.ndarray) -> np.ndarray:
        mean = np.where(known, values, 0).sum(axis=1, keepdims=True) / count
        return np.where(known, values - mean, 0)

    own, other = centred(places), centred(np.broadcast_to(usual, places.shape))
    power = np.maximum((other**2).sum(axis=1), 1e-12)
    slope = (own * other).sum(axis=1) / power
    correlation = slope * np.sqrt(power / np.maximum((own**2).sum(axis=1), 1e-12))
    wide = np.sqrt(power / count[:, 0]) >= _GAP
    median, std = np.array([_robust(slope[wide[:, axis], axis]) for axis in range(3)]).T
    telling = wide & (_CLEAR * std <= median)
    return telling, telling & (slope <= -median / 2) & (correlation <= -_SURE)


def _by_place(places: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by the place of labels in the scan, which tells sides even for one label, if it is off the middle."""
    known = np.isfinite(places)
    count = np.maximum(known.sum(axis=1), 1)
    distances = (places - usual, 1 - places - usual, np.broadcast_to(1 - 2 * usual, places.shape))
    off, mirrored_off, gap = (np.where(known, np.abs(each), 0).sum(axis=1) / count for each in distances)
    telling = gap >= np.maximum(_WIDE, _CLEARER * np.median(off, axis=0))
    return telling, telling & (mirrored_off <= _NEAR * gap) & (off >= (1 - _NEAR) * gap)


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Median and robust std of some values; of too few, the std is infinite."""
    if len(values) < MIN_CASES:
        return 0.0, np.inf
    return float(np.median(values)), float(1.4826 * np.median(np.abs(values - np.median(values))))


def _correlation(views: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """The correlation of each view with the usual one; 0 for a constant view."""
    rows, one = views.reshape(len(views), -1), usual.ravel() - usual.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    found: np.ndarray = (rows @ one) / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(one), 1e-12)
    return found

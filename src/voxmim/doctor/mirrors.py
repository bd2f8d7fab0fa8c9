"""Which scans, and which label maps, lie mirrored against the others: told by their neighbours.

A scan is compared by its view from afar (`Facts.coarse`), a label map by where the centres of its labels lie, as shares
of the scan's extent; each as it is, and mirrored along each axis. Blamed is only what fits the others badly as it is
and well when mirrored, among others that fit each other. So nearly symmetric anatomy, and scans of different regions,
are never blamed; nor is what lies mirrored along with too many of the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voxmim.doctor.facts import Facts

FEWEST = 5  # cases that know enough of each other
_ALIKE, _APART = 0.6, 0.4  # correlations: of what fits, and how far beneath it what does not fit must stay
_GAP = 0.03  # shares of the extent: how far labels lie from their middle, where they tell sides among themselves
_WIDE = 0.12  # the same: how far a label lies from the place of its mirror image, where it tells sides alone
_CLEAR, _CLEARER = 4, 8  # times the usual variation that a mirror image must lie off; alone, crops that vary mislead
_SURE = 0.8  # the correlation of places with those of the mirror image
_NEAR = 0.3  # of that gap: how close to the mirror image's place, and no closer to the usual one


def mirrored_scans(facts: Mapping[str, Facts]) -> dict[str, set[int]]:
    """Of each scan that lies mirrored, the axes (0 right, 1 anterior, 2 superior)."""
    found: dict[str, set[int]] = {}
    if len(facts) < FEWEST:
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
    """Of each label map that lies mirrored, the axes (0 right, 1 anterior, 2 superior)."""
    values = sorted({value for each in facts.values() for value in each.labels})
    names = [name for name, each in facts.items() if each.labels]
    centres = np.full((len(names), len(values), 3), np.nan)
    for row, name in enumerate(names):
        for value, label in facts[name].labels.items():
            centres[row, values.index(value)] = label.centre
    common = np.isfinite(centres[..., 0]).sum(axis=0) >= FEWEST
    found: dict[str, set[int]] = {}
    if not common.any():
        return found
    places = centres[:, common]
    usual = np.nanmedian(places, axis=0)
    for telling, mirrored in (_among_themselves(places, usual), _in_the_scan(places, usual)):
        for row, axis in np.argwhere(mirrored):
            found.setdefault(names[row], set()).add(int(axis))
        places = np.where(telling[:, None], np.nan, places)  # by the former; what it tells stands
    return found


def _among_themselves(places: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cases, 3) where the places (cases, labels, 3) of several labels to each other tell sides, and which are wrong.

    The slope of a case's places over the usual ones is near 1, whatever was cropped, and near -1 in a mirror image.
    """
    known = np.isfinite(places)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)

    def centred(values: np.ndarray) -> np.ndarray:
        middle = np.where(known, values, 0).sum(axis=1, keepdims=True) / count
        return np.where(known, values - middle, 0)

    own, other = centred(places), centred(np.broadcast_to(usual, places.shape))
    power = np.maximum((other**2).sum(axis=1), 1e-12)
    slope = (own * other).sum(axis=1) / power
    fit = slope * np.sqrt(power / np.maximum((own**2).sum(axis=1), 1e-12))  # the correlation
    wide = np.sqrt(power / count[:, 0]) >= _GAP
    middle, varies = np.array([_robust(slope[wide[:, axis], axis]) for axis in range(3)]).T
    telling = wide & (_CLEAR * varies <= middle)
    return telling, telling & (slope <= -middle / 2) & (fit <= -_SURE)


def _in_the_scan(places: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of the places of labels in the scan, which tell sides even of one label, if it lies well to one."""
    known = np.isfinite(places)
    count = np.maximum(known.sum(axis=1), 1)
    all_three = (places - usual, 1 - places - usual, np.broadcast_to(1 - 2 * usual, places.shape))
    off, mirrored_off, gap = (np.where(known, np.abs(each), 0).sum(axis=1) / count for each in all_three)
    telling = gap >= np.maximum(_WIDE, _CLEARER * np.median(off, axis=0))
    return telling, telling & (mirrored_off <= _NEAR * gap) & (off >= (1 - _NEAR) * gap)


def _robust(values: np.ndarray) -> tuple[float, float]:
    """The median of some values, and their deviation, robustly taken; of too few, none is certain."""
    if len(values) < FEWEST:
        return 0.0, np.inf
    return float(np.median(values)), float(1.4826 * np.median(np.abs(values - np.median(values))))


def _correlation(views: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Of each view with the usual one; 0 for a constant view."""
    rows, one = views.reshape(len(views), -1), usual.ravel() - usual.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    found: np.ndarray = (rows @ one) / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(one), 1e-12)
    return found

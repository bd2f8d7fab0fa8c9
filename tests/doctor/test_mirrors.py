"""Mirrored scans and label maps are found among varying ones, without false positives."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import numpy as np
import pytest

from voxmim.doctor.facts import Facts, LabelFacts, measure
from voxmim.doctor.mirrors import MIN_CASES, mirrored_labels, mirrored_scans
from voxmim.images.volume import Volume

PAIR = {1: (0.65, 0.5, 0.5), 2: (0.35, 0.5, 0.5), 3: (0.5, 0.52, 0.7)}


def cohort(
    count: int, centres: dict[int, tuple[float, float, float]], shift: float = 0.08, seed: int = 0, noise: float = 0.01
) -> dict[str, Facts]:
    """Cases with randomly shifted crops and labels around these centres."""
    rng = np.random.default_rng(seed)
    body = np.add.outer(np.add.outer(np.linspace(0, 1, 12), np.linspace(0, 0.5, 12)), np.linspace(1, 0, 12))
    facts = {}
    for index in range(count):
        scan = measure(Volume((body + rng.normal(0, 0.1, body.shape))[None], np.eye(4)))
        moved = rng.normal(0, shift, 3)
        labels = {
            value: LabelFacts(1000.0, tuple(np.add(centre, moved + rng.normal(0, noise, 3))))
            for value, centre in centres.items()
        }
        facts[f"case_{index}"] = replace(scan, labels=labels)
    return facts


def flipped(facts: Facts, axis: int) -> Facts:
    """The facts with the label map mirrored along an axis."""
    labels = {}
    for value, label in facts.labels.items():
        centre = list(label.centre)
        centre[axis] = 1 - centre[axis]
        labels[value] = label._replace(centre=tuple(centre))
    return replace(facts, labels=labels)


@pytest.mark.parametrize(("axis", "seed"), [(0, 0), (0, 1), (2, 2)])
def test_a_mirrored_pair_is_found_in_varying_crops(axis: int, seed: int) -> None:
    facts = cohort(20, PAIR, seed=seed)
    assert mirrored_labels(facts) == {}
    facts["case_7"] = flipped(facts["case_7"], axis)
    assert mirrored_labels(facts) == {"case_7": {axis}}


def test_exchanged_sides_are_found() -> None:
    facts = cohort(20, PAIR)
    labels = facts["case_3"].labels
    facts["case_3"] = replace(facts["case_3"], labels={1: labels[2], 2: labels[1], 3: labels[3]})
    assert mirrored_labels(facts) == {"case_3": {0}}


@pytest.mark.parametrize(("place", "shift"), [(0.75, 0.03), (0.42, 0.005)])
def test_one_label_that_is_clearly_on_one_side_is_enough(place: float, shift: float) -> None:
    facts = cohort(20, {1: (place, 0.5, 0.5)}, shift)
    assert mirrored_labels(facts) == {}
    facts["case_3"] = flipped(facts["case_3"], 0)
    assert mirrored_labels(facts) == {"case_3": {0}}


@pytest.mark.parametrize("seed", range(5))
def test_nearly_symmetric_labels_give_no_finding(seed: int) -> None:
    facts = cohort(40, {1: (0.52, 0.5, 0.5), 2: (0.48, 0.5, 0.49)}, seed=seed)
    assert mirrored_labels(facts) == {}
    facts["case_3"] = flipped(facts["case_3"], 0)
    assert mirrored_labels(facts) == {}


def test_one_label_in_varying_crops_gives_no_finding() -> None:
    facts = cohort(40, {1: (0.42, 0.5, 0.5)}, shift=0.05)
    assert mirrored_labels(facts) == {}
    facts["case_3"] = flipped(facts["case_3"], 0)
    assert mirrored_labels(facts) == {}


def test_a_label_at_random_places_gives_no_finding() -> None:
    rng = np.random.default_rng(0)
    facts = cohort(40, {1: (0.5, 0.5, 0.5)}, shift=0.25)
    assert mirrored_labels(facts) == {}
    mixed = {name: replace(each, labels={int(rng.integers(1, 4)): each.labels[1]}) for name, each in facts.items()}
    assert mirrored_labels(mixed) == {}


def test_too_few_cases_give_no_finding() -> None:
    facts = cohort(MIN_CASES - 1, PAIR)
    facts["case_1"] = flipped(facts["case_1"], 0)
    assert mirrored_labels(facts) == {}
    assert mirrored_labels({}) == mirrored_scans({}) == {}


@pytest.mark.parametrize("axis", [0, 2])
def test_a_mirrored_scan_is_found(axis: int) -> None:
    facts = cohort(20, {})
    assert mirrored_scans(facts) == {}
    view = np.flip(facts["case_5"].coarse(), axis=axis).astype(np.uint8)
    facts["case_5"] = replace(facts["case_5"], overview=b64encode(view.tobytes()).decode())
    assert mirrored_scans(facts) == {"case_5": {axis}}


def test_scans_of_different_regions_give_no_finding() -> None:
    rng = np.random.default_rng(0)
    facts = {
        str(index): measure(Volume(rng.normal(size=(1, 6, 6, 6)).cumsum(axis=1), np.eye(4))) for index in range(30)
    }
    for each in list(facts):
        facts[f"{each} turned"] = measure(Volume(rng.normal(size=(1, 6, 6, 6)).cumsum(axis=3), np.eye(4)))
    assert mirrored_scans(facts) == {}


def test_labels_that_have_nearly_exchanged_places_give_no_finding() -> None:
    facts = cohort(20, {1: (0.65, 0.5, 0.5), 2: (0.35, 0.5, 0.5)})
    near = {1: LabelFacts(9.0, (0.49, 0.5, 0.5)), 2: LabelFacts(9.0, (0.51, 0.5, 0.5))}
    facts["case_4"] = replace(facts["case_4"], labels=near)
    assert mirrored_labels(facts) == {}


@pytest.mark.parametrize("seed", range(3))
def test_labels_with_varying_relative_positions_give_no_finding(seed: int) -> None:
    assert mirrored_labels(cohort(60, {1: (0.55, 0.5, 0.5), 2: (0.45, 0.5, 0.5)}, seed=seed, noise=0.05)) == {}

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from voxmim.tasks.intervals import bootstrap_interval
from voxmim.tasks.segmentation.scores import Scores, score_case, summarise

MASK = {"organ": (1,)}
SPACING = (0.7, 1.3, 2.5)


def scores_of(dice: float | None, hd95_mm: float | None, nsd: float | None) -> Scores:
    return {"dice": dice, "hd95_mm": hd95_mm, "nsd": nsd}


def surface_points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Centres in mm of the voxels with a face neighbour outside the mask, found one by one."""
    points = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(3), (-1, 1)):
            neighbour = list(voxel)
            neighbour[axis] += step
            outside = not 0 <= neighbour[axis] < mask.shape[axis]
            if outside or not mask[tuple(neighbour)]:
                points.append(np.multiply(voxel, spacing))
                break
    return np.array(points)


def slow_score(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> Scores:
    """Scores from all distances between all surface voxels, by brute force."""
    a, b = surface_points(prediction, spacing), surface_points(reference, spacing)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    there, back = distances.min(1), distances.min(0)
    within = (there <= tolerance).sum() + (back <= tolerance).sum()
    return scores_of(
        dice=2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()),
        hd95_mm=max(np.percentile(there, 95), np.percentile(back, 95)),
        nsd=within / (len(there) + len(back)),
    )


def assert_same(score: Scores, other: Scores) -> None:
    assert score["dice"] == pytest.approx(other["dice"], rel=1e-6)
    assert score["hd95_mm"] == pytest.approx(other["hd95_mm"], rel=1e-5, abs=1e-4)
    assert score["nsd"] == pytest.approx(other["nsd"], rel=1e-6)


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return np.linalg.norm(grid - np.array(centre), axis=-1) <= radius


masks = hnp.arrays(bool, st.shared(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), key="shape")).filter(np.any)


@settings(max_examples=40, deadline=None)
@given(masks, masks, st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3), st.sampled_from([0.4, 1.2, 3.3]))
def test_scores_agree_with_brute_force_on_any_two_masks(prediction, reference, spacing, tolerance):
    fast = score_case(prediction.astype(np.uint8), reference.astype(np.uint8), MASK, spacing, tolerance)["organ"]
    assert_same(fast, slow_score(prediction, reference, spacing, tolerance))


@pytest.mark.parametrize("centre", [(10, 9, 8), (1, 9, 8), (19, 17, 15), (-2, 8, 17)], ids=str)
def test_scores_agree_with_brute_force_and_monai_also_at_the_image_border(centre):
    shape = (20, 18, 16)
    reference, prediction = ball(shape, centre, 5), ball(shape, np.add(centre, (1, -1, 0)), 6)
    fast = score_case(prediction.astype(np.uint8), reference.astype(np.uint8), MASK, SPACING, 1.5)["organ"]
    assert_same(fast, slow_score(prediction, reference, SPACING, 1.5))
    pair = torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    monai = scores_of(
        float(compute_dice(*pair)),
        float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=SPACING)),
        float(compute_surface_dice(*pair, [1.5], include_background=True, spacing=SPACING)),
    )
    assert_same(fast, monai)


def test_an_organ_that_fills_the_image_has_its_surface_at_the_border():
    full = np.ones((4, 4, 4), np.uint8)
    score = score_case(full, full, MASK, (1, 1, 1), 1.0)["organ"]
    assert score == scores_of(1.0, 0.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, (5, 4, 6), elements=st.integers(0, 3)),
    hnp.arrays(np.uint8, (5, 4, 6), elements=st.integers(0, 3)),
)
def test_scores_are_symmetric_bounded_and_perfect_for_identical_maps(a, b):
    labels = {"one": (1,), "two": (2,), "three": (3,)}
    there, back = score_case(a, b, labels, SPACING, 1.0), score_case(b, a, labels, SPACING, 1.0)
    assert there == back
    for score in there.values():
        if score["dice"] is not None:
            assert 0 <= score["dice"] <= 1
            assert 0 <= score["nsd"] <= 1
            assert 0 <= score["hd95_mm"] <= np.linalg.norm(np.multiply(a.shape, SPACING)) + 1e-4
    for name, score in score_case(a, a, labels, SPACING, 1.0).items():
        present = {"one": 1, "two": 2, "three": 3}[name] in a
        assert score == (scores_of(1.0, 0.0, 1.0) if present else scores_of(None, None, None))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("steps", [1, 3])
def test_a_slab_shifted_by_k_voxels_is_at_a_distance_of_k_spacings(axis, steps):
    reference = np.zeros((14, 14, 14), np.uint8)
    reference[(slice(None),) * axis + (slice(4, 6),)] = 1
    prediction = np.roll(reference, steps, axis)
    distance = steps * SPACING[axis]
    score = score_case(prediction, reference, MASK, SPACING, distance)["organ"]
    # The slab is two voxels thick: its far layer, more than 5 % of the surface, is at a distance of k spacings.
    assert score["hd95_mm"] == pytest.approx(distance, rel=1e-5)
    assert score["nsd"] == 1.0
    assert score["dice"] == pytest.approx(0.5 if steps == 1 else 0.0)
    assert score_case(prediction, reference, MASK, SPACING, 0.9 * distance)["organ"]["nsd"] < 1.0


def test_rounding_of_the_spacing_does_not_affect_the_tolerance():
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:4] = 1
    exact = np.float32([1, 1, 1]) + np.float32(3e-7)
    assert score_case(np.roll(reference, 1, 0), reference, MASK, exact, 1.0)["organ"]["nsd"] == 1.0


def test_labels_are_scored_separately_by_name():
    reference = np.zeros((9, 8, 7), np.uint8)
    reference[1:4, 1:4, 1:4], reference[5:8, 2:6, 2:6] = 2, 7
    prediction = reference.copy()
    prediction[5:8, 2:4, 2:6] = 2
    scores = score_case(prediction, reference, {"liver": (7,), "spleen": (2,)}, SPACING, 1.0)
    assert list(scores) == ["liver", "spleen"]
    for name, value in (("liver", 7), ("spleen", 2)):
        assert_same(scores[name], slow_score(prediction == value, reference == value, SPACING, 1.0))


@pytest.mark.parametrize("values", [(1, 2, 4), (4, 1), (2, 9)])
def test_a_region_is_scored_as_the_union_of_its_labels(values):
    rng = np.random.default_rng(sum(values))
    reference, prediction = rng.choice(np.uint8([0, 0, 0, 1, 2, 4]), (2, 6, 7, 5))
    alone = [np.isin(label_map, values) for label_map in (prediction, reference)]
    scores = score_case(prediction, reference, {"region": values, "other": (1,)}, SPACING, 1.0)
    assert_same(scores["region"], slow_score(*alone, SPACING, 1.0))
    union = score_case(*(mask.astype(np.uint8) for mask in alone), MASK, SPACING, 1.0)["organ"]
    assert scores["region"] == union
    assert scores["other"] == score_case(prediction, reference, MASK, SPACING, 1.0)["organ"]


def test_a_region_may_have_labels_that_only_one_map_contains():
    reference, prediction = np.zeros((3, 4, 12), np.uint8), np.zeros((3, 4, 12), np.uint8)
    reference[0, 0, 0], prediction[0, 0, 0], prediction[1, 1, 1] = 1, 2, 7
    scores = score_case(prediction, reference, {"both": (1, 2), "far": (5, 6), "lone": (3, 7)}, (1, 1, 1), 1.0)
    assert scores["both"] == scores_of(1.0, 0.0, 1.0)
    assert scores["far"] == scores_of(None, None, None)
    assert scores["lone"] == scores_of(0.0, 13.0, 0.0)


def test_absent_labels_follow_the_convention():
    reference, prediction = np.zeros((3, 4, 12), np.uint8), np.zeros((3, 4, 12), np.uint8)
    reference[0, 0, 0], prediction[1, 1, 1] = 1, 2
    labels = {"missed": (1,), "invented": (2,), "absent": (3,), "far beyond": (200,)}
    scores = score_case(prediction, reference, labels, (1, 1, 1), 1.0)
    assert scores["missed"] == scores["invented"] == scores_of(0.0, 13.0, 0.0)
    assert scores["absent"] == scores["far beyond"] == scores_of(None, None, None)


def test_label_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        score_case(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), MASK, (1, 1, 1), 1.0)


def test_a_full_size_case_is_scored_fast():
    shape = (240, 240, 155)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    box = (slice(80, 170), slice(70, 150), slice(40, 120))
    for label_map, offset in ((reference, 0), (prediction, 3)):
        for value, radius in ((1, 34), (2, 24), (3, 15)):
            label_map[box][ball((90, 80, 80), (45 + offset, 40, 40), radius)] = value
    begin = time.process_time()
    scores = score_case(prediction, reference, {"oedema": (1,), "tumour": (2,), "core": (3,)}, (1, 1, 1), 2.0)
    assert time.process_time() - begin < 10  # 0.3 s on an idle core
    assert all(0.5 < score["dice"] < 1 for score in scores.values())


CASES = {
    "a": {"liver": scores_of(0.9, 2.0, 0.8), "spleen": scores_of(0.5, 6.0, 0.4)},
    "b": {"liver": scores_of(0.8, 4.0, 0.6), "spleen": scores_of(None, None, None)},
    "c": {"liver": scores_of(None, None, None), "spleen": scores_of(None, None, None)},
}


def test_the_summary_weights_cases_equally_and_leaves_out_uncounted_labels():
    summary = summarise(CASES, seed=3)
    assert summary["mean"]["dice"] == pytest.approx((0.7 + 0.8) / 2)
    assert summary["mean"]["hd95_mm"] == pytest.approx((4.0 + 4.0) / 2)
    assert summary["mean"]["nsd"] == pytest.approx((0.6 + 0.6) / 2)
    assert summary["mean"]["ci95"] == pytest.approx(list(bootstrap_interval([0.7, 0.8], seed=3)))
    liver, spleen = summary["labels"]["liver"], summary["labels"]["spleen"]
    assert (liver["dice"], liver["cases"]) == (pytest.approx(0.85), 2)
    assert spleen == {"dice": 0.5, "hd95_mm": 6.0, "nsd": 0.4, "ci95": [0.5, 0.5], "cases": 1}
    assert [case["case"] for case in summary["cases"]] == ["a", "b", "c"]
    assert [case["mean_dice"] for case in summary["cases"]] == [pytest.approx(0.7), 0.8, None]
    assert summary["cases"][1]["hd95_mm"] == {"liver": 4.0, "spleen": None}


def test_the_summary_is_json_without_nan_even_if_nothing_was_counted():
    summary = summarise({"c": CASES["c"]})
    assert summary["mean"] == {"dice": None, "hd95_mm": None, "nsd": None, "ci95": None}
    assert summary["labels"]["liver"]["cases"] == 0
    for cases in (CASES, {"c": CASES["c"]}, {}):
        summary = summarise(cases)
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_scored_cases_can_be_written_as_json():
    label_map = ball((9, 9, 9), (4, 4, 4), 3).astype(np.uint8)
    scores = score_case(np.roll(label_map, 1, 0), label_map, {"organ": (1,), "other": (2,)}, np.float32(SPACING), 1.0)
    json.dumps(summarise({"case": scores}), allow_nan=False)

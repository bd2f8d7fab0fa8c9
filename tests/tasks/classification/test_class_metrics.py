from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score, roc_auc_score

from voxmim.tasks.classification.metrics import auroc, balanced_accuracy, summarise


def drawn(seed: int, cases: int, classes: int, coarse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Classes, each at least twice, and informative probabilities; rounded ones have ties."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(classes), 2), rng.integers(classes, size=cases - 2 * classes)])
    logits = rng.normal(size=(cases, classes)) + np.eye(classes)[truth]
    given = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, np.round(given, 1) if coarse else given


def pairwise(truth: np.ndarray, score: np.ndarray) -> float:
    """AUROC of class 1 by definition: the fraction of positive-negative pairs in the right order; ties count half."""
    pairs = list(product(score[truth == 1], score[truth == 0]))
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


@given(st.integers(0, 10**6), st.integers(4, 30), st.booleans())
@settings(max_examples=40)
def test_auroc_of_two_classes_is_the_fraction_of_pairs_in_order(seed: int, cases: int, coarse: bool) -> None:
    truth, given = drawn(seed, cases, 2)
    score = np.round(given[:, 1], 1) if coarse else given[:, 1]
    both = np.stack([1 - score, score], axis=1)
    assert auroc(truth, both) == pytest.approx(pairwise(truth, score))
    assert auroc(truth, both) == pytest.approx(roc_auc_score(truth, score))


@given(st.integers(0, 10**6), st.integers(3, 5))
@settings(max_examples=20)
def test_auroc_of_several_classes_agrees_with_scikit_learns_macro_one_vs_rest(seed: int, classes: int) -> None:
    truth, given = drawn(seed, 40, classes)
    expected = roc_auc_score(truth, given, multi_class="ovr", average="macro")
    assert auroc(truth, given) == pytest.approx(expected)
    assert balanced_accuracy(truth, given.argmax(1)) == pytest.approx(balanced_accuracy_score(truth, given.argmax(1)))


def test_auroc_of_perfect_reversed_and_constant_scores() -> None:
    truth = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.2, 0.8, 0.9])
    both = np.stack([1 - score, score], axis=1)
    assert auroc(truth, both) == 1.0
    assert auroc(truth, both[:, ::-1]) == 0.0
    assert auroc(truth, np.full((4, 2), 0.5)) == 0.5
    assert np.isnan(auroc(np.zeros(4, dtype=int), both))


def test_auroc_of_many_draws_agrees_with_each_draw_alone() -> None:
    truth, given = drawn(3, 20, 3, coarse=True)
    many = np.stack([given, given[::-1], np.roll(given, 1, axis=0)])
    assert auroc(truth, many) == pytest.approx([float(auroc(truth, one)) for one in many])
    assert balanced_accuracy(truth, many.argmax(-1)) == pytest.approx(
        [float(balanced_accuracy(truth, one.argmax(-1))) for one in many]
    )


def test_a_summary_agrees_with_scikit_learn() -> None:
    truth, given = drawn(5, 30, 3)
    classes = ["a", "b", "c"]
    names = [f"case_{i}" for i in range(30)]
    result = summarise(classes, {n: classes[k] for n, k in zip(names, truth, strict=True)},
                       dict(zip(names, given, strict=True)))  # fmt: skip
    called = given.argmax(1)
    assert result["confusion"] == confusion_matrix(truth, called).tolist()
    assert [s["value"] for s in result["sensitivity"].values()] == pytest.approx(
        recall_score(truth, called, average=None)
    )
    assert [s["cases"] for s in result["sensitivity"].values()] == np.bincount(truth).tolist()
    assert result["auroc"]["value"] == pytest.approx(roc_auc_score(truth, given, multi_class="ovr"))
    assert (result["auroc"]["chance"], result["balanced_accuracy"]["chance"]) == (0.5, pytest.approx(1 / 3))
    first = result["cases"][0]
    assert (first["case"], first["class"], first["predicted"]) == ("case_0", "a", classes[called[0]])
    assert list(first["probabilities"].values()) == given[0].tolist()
    assert json.loads(json.dumps(result)) == result


def test_intervals_agree_with_a_plain_stratified_bootstrap() -> None:
    truth, given = drawn(7, 40, 2)
    names = [str(i) for i in range(40)]
    result = summarise(["n", "p"], {n: "np"[k] for n, k in zip(names, truth, strict=True)},
                       dict(zip(names, given, strict=True)))  # fmt: skip
    rng = np.random.default_rng(99)
    areas, accuracies = [], []
    for _ in range(300):
        rows = np.concatenate([rng.choice(np.flatnonzero(truth == k), (truth == k).sum()) for k in (0, 1)])
        areas.append(roc_auc_score(truth[rows], given[rows, 1]))
        accuracies.append(balanced_accuracy_score(truth[rows], given[rows].argmax(1)))
    for key, values in (("auroc", areas), ("balanced_accuracy", accuracies)):
        assert result[key]["ci95"] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.04)
        assert result[key]["ci95"][0] < result[key]["value"] < result[key]["ci95"][1]


def test_missing_classes_are_not_counted() -> None:
    given = {"x": np.array([0.2, 0.7, 0.1]), "y": np.array([0.9, 0.1, 0.0])}
    result = summarise(["a", "b", "c"], {"x": "a", "y": "a"}, given)
    assert result["auroc"] == {"value": None, "ci95": None, "chance": 0.5}
    assert result["balanced_accuracy"]["value"] == 0.5
    assert result["balanced_accuracy"]["chance"] == 1.0
    assert result["sensitivity"]["b"] == {"value": None, "cases": 0}
    both = summarise(["a", "b", "c"], {"x": "b", "y": "a"}, given)
    assert both["auroc"]["value"] == 1.0
    assert both["balanced_accuracy"]["chance"] == 0.5

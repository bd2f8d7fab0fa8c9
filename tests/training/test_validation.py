"""Validation: the steps that are validated, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.settings import Training
from voxmim.store.format import Case
from voxmim.training.damage import Damage
from voxmim.training.plateau import plateau
from voxmim.training.validation import Validation

CASES = [Case(f"case_{at}", "val", (8, 8, 8), ("x",)) for at in range(6)]


class Harness:
    """A validation of six cases with given scores at each step.

    A step with two crops costs as much as six windows; validations are ten steps apart, so 10 % are six windows.
    """

    def __init__(self, quality: Mapping[int, float], fraction: float = 0.1, windows: int = 6, steps: int = 100) -> None:
        self.quality, self.step, self.scored = quality, 0, 0
        self.steps = range(10, steps + 1, 10)
        training = Training(steps=steps, batch=2, validate_every=10, validation_fraction=fraction)
        self.validation = Validation(CASES, windows, self.score, self.figures, "val_dice", training, Damage())

    def score(self, case: Case) -> float:
        self.scored += 1
        return self.quality.get(self.step, 0.5) + 0.01 * int(case.name[-1])

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        return {"val_dice": sum(scores.values()) / len(scores)} if scores else {}

    def run(self, *steps: int) -> dict[int, float]:
        """Return the score of each step that is validated."""
        scores = {}
        for step in steps or self.steps:
            self.step = step
            row = self.validation(self.step)
            scores |= {self.step: row["val_dice"]} if row else {}
        return scores


def test_every_validation_runs_if_there_is_time() -> None:
    assert list(Harness({}, windows=6).run()) == [*range(10, 101, 10)]


def test_validations_are_skipped_if_they_take_too_long() -> None:
    assert list(Harness({}, windows=18).run()) == [10, 60, 70, 100]  # there is time for 36 windows after 60 steps


def test_the_first_the_last_and_the_one_before_the_last_quarter_are_never_skipped() -> None:
    assert list(Harness({}, windows=1000).run()) == [10, 70, 100]


def test_a_validation_scores_all_cases() -> None:
    harness = Harness({10: 0.3})
    assert harness.run(10) == {10: pytest.approx(0.325)}
    assert harness.scored == len(CASES)


def test_a_fraction_of_one_skips_no_validation() -> None:
    assert list(Harness({}, fraction=1.0, windows=1000).run()) == [*range(10, 101, 10)]


@given(windows=st.integers(1, 400), tens=st.integers(1, 40), fraction=st.floats(0, 0.9))
def test_the_time_stays_within_the_fraction_except_for_three_required_validations(
    windows: int, tens: int, fraction: float
) -> None:
    validated = Harness({}, fraction, windows, steps=10 * tens).run()
    assert len(validated) * windows <= fraction * 6 * 10 * tens + 3 * windows


@given(windows=st.integers(1, 400), tens=st.integers(4, 40), start=st.floats(0, 0.9))
def test_convergence_can_be_determined_from_the_validated_steps(windows: int, tens: int, start: float) -> None:
    """A curve that increases until the end has not converged and a flat one has, even with skipped validations."""
    last = 10 * tens
    for slope, done in ((0.1 / last, False), (0.0, True)):
        quality = {step: start + slope * step for step in range(10, last + 1, 10)}
        scores = Harness(quality, 0.1, windows, steps=last).run()
        assert plateau(np.array(list(scores)), np.array(list(scores.values()))).done == done


def test_the_best_step_is_the_best_of_the_validated_ones() -> None:
    harness = Harness({10: 0.1, 20: 0.4, 30: 0.3, 40: 0.4})
    improved = []
    for harness.step in (10, 20, 30, 40):
        harness.validation(harness.step)
        improved.append(harness.validation.improved)
    assert improved == [True, True, False, False]


@pytest.mark.parametrize("stop", [10, 30, 60, 70])
def test_a_resumed_validation_validates_the_same_steps(stop: int) -> None:
    quality = {step: 0.3 + 0.1 * (step % 30) / 30 for step in range(0, 101, 10)}
    uninterrupted, first, second = (Harness(quality, windows=18) for _ in range(3))
    steps = uninterrupted.steps
    before = first.run(*(step for step in steps if step <= stop))
    second.validation.load_state_dict(first.validation.state_dict())
    assert before | second.run(*(step for step in steps if step > stop)) == uninterrupted.run()
    assert second.validation.state_dict() == uninterrupted.validation.state_dict()


def test_a_checkpoint_of_version_0_1_has_the_best_value_only() -> None:
    harness = Harness({100: 0.4})
    harness.validation.load_state_dict(0.5)
    harness.run(100)
    assert not harness.validation.improved

"""Accounting of convergence, on cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voxmim.studies.curves import Cost, break_even, equal_time_steps, savings

STEPS = np.array([100, 200, 300, 400])
SCRATCH = Cost(pretraining=0.0, step=0.01)  # 1 core-minute per 100 steps
PRETRAINED = Cost(pretraining=5.0, step=0.01)
SLOW = np.array([0.2, 0.4, 0.6, 0.8])
FAST = np.array([0.4, 0.8, 0.8, 0.8])


def test_the_cost_of_an_arm_includes_its_pre_training() -> None:
    assert PRETRAINED.of(300) == pytest.approx(3 + 5)
    assert SCRATCH.of(300) == pytest.approx(3)


def test_pre_training_breaks_even_when_the_savings_of_fine_tunings_cover_its_cost() -> None:
    # each fine-tuning saves 400 - 200 steps, 2 core-minutes, of the 5 that pre-training took
    assert break_even(PRETRAINED, 200, SCRATCH, 400) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("own_steps", "other_steps", "expected"),
    [(200, math.inf, 0.0), (math.inf, 400, math.inf), (math.inf, math.inf, math.inf), (400, 400, math.inf)],
)
def test_break_even_of_arms_that_never_reach_the_target_or_save_nothing(
    own_steps: float, other_steps: float, expected: float
) -> None:
    assert break_even(PRETRAINED, own_steps, SCRATCH, other_steps) == expected


def test_an_arm_without_pre_training_breaks_even_at_the_first_fine_tuning_or_never() -> None:
    assert break_even(SCRATCH, 200, PRETRAINED, 400) == 0.0
    assert break_even(SCRATCH, 400, SCRATCH, 200) == math.inf


def test_savings_are_given_in_steps_and_minutes_to_fractions_of_the_other_plateau() -> None:
    results = savings(STEPS, FAST, PRETRAINED, STEPS, SLOW, SCRATCH)
    assert [saving.fraction for saving in results] == [0.9, 0.95, 0.99, 1.0]
    whole = results[-1]  # 0.8: step 200 of the fast curve, step 400 of the slow one
    assert (whole.steps, whole.other_steps) == pytest.approx((200, 400))
    assert (whole.minutes, whole.other_minutes) == pytest.approx((2 + 5, 4))
    assert whole.break_even == pytest.approx(2.5)
    first = results[0]  # 0.72: 0.32 of the 0.4 between 100 and 200; 0.12 of the 0.2 between 300 and 400
    assert (first.steps, first.other_steps) == pytest.approx((180, 360))
    assert first.break_even == pytest.approx(5 / 1.8)


def test_an_arm_below_the_plateau_of_the_other_never_breaks_even() -> None:
    results = savings(STEPS, 0.5 * SLOW, PRETRAINED, STEPS, SLOW, SCRATCH)
    assert all(
        math.isinf(saving.steps) and math.isinf(saving.minutes) and math.isinf(saving.break_even) for saving in results
    )


def test_the_equal_time_arm_also_gets_the_time_of_pre_training() -> None:
    assert (
        equal_time_steps(400, SCRATCH, PRETRAINED) == 920
    )  # 4 + 5 core-minutes at 100 steps per minute, rounded to multiples of 40
    assert equal_time_steps(500, SCRATCH, PRETRAINED) == 1000
    assert equal_time_steps(400, Cost(0.0, 0.02), PRETRAINED) == 480  # 450
    assert equal_time_steps(4, SCRATCH, PRETRAINED) == 504

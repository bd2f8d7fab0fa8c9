"""The sentence about arms that have not converged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voxmim.recipe import make_recipe
from voxmim.studies.arm import Arm
from voxmim.studies.speed import undone_in_words

STEPS = np.array([100, 200, 300, 400])
CURVES = {"flat": [0.5, 0.7, 0.798, 0.8], "rising": [0.5, 0.7, 0.79, 0.8]}  # the last quarter gains 0.002 and 0.01


class FakeComparison:
    """A comparison with known validation curves, of two seeds and three cases."""

    def validation(self, arm: Arm) -> list[tuple[np.ndarray, np.ndarray]]:
        curve = CURVES.get(arm.name)
        return [] if curve is None else [(STEPS, np.tile(np.array(curve)[None, :, None], (2, 1, 3)))]


def sentence_for(*names: str) -> str:
    comparison: Any = FakeComparison()
    recipe = make_recipe({"finetune": {"steps": 400}})
    return undone_in_words(comparison, [Arm(name, Path("store"), recipe) for name in names])


def test_an_arm_that_still_improves_is_named_with_twice_the_steps() -> None:
    sentence = sentence_for("flat", "rising")
    assert sentence.startswith("Not done: rising. The last quarter of the steps still raised")
    assert "with more steps, such as --set finetune.steps=800, they may end higher." in sentence


def test_there_is_no_sentence_if_all_arms_have_converged_or_are_missing() -> None:
    assert sentence_for("flat", "missing") == ""

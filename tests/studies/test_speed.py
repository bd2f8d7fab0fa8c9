"""The sentence on arms that are not done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voxmim.recipe import make_recipe
from voxmim.studies.arm import Arm
from voxmim.studies.speed import undone_in_words

STEPS = np.array([100, 200, 300, 400])
CURVES = {"flat": [0.5, 0.7, 0.798, 0.8], "rising": [0.5, 0.7, 0.79, 0.8]}  # the last quarter gains 0.002 and 0.01


class Validated:
    """A comparison of which the validation curves are known, of two seeds and three cases."""

    def validation(self, arm: Arm) -> list[tuple[np.ndarray, np.ndarray]]:
        curve = CURVES.get(arm.name)
        return [] if curve is None else [(STEPS, np.tile(np.array(curve)[None, :, None], (2, 1, 3)))]


def said_of(*names: str) -> str:
    comparison: Any = Validated()
    recipe = make_recipe({"finetune": {"steps": 400}})
    return undone_in_words(comparison, [Arm(name, Path("store"), recipe) for name in names])


def test_an_arm_that_still_rises_is_named_with_twice_the_steps() -> None:
    said = said_of("flat", "rising")
    assert said.startswith("Not done: rising. The last quarter of the steps still raised")
    assert "with more steps, such as --set finetune.steps=800, they may end higher." in said


def test_nothing_is_said_where_all_are_done_or_missing() -> None:
    assert said_of("flat", "missing") == ""

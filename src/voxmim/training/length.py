"""How many steps a fine-tuning makes if its recipe leaves that to the data (``finetune.steps: null``)."""

import math
from collections.abc import Sequence
from dataclasses import replace

from voxmim.console import CONSOLE
from voxmim.recipe import Recipe
from voxmim.settings import Triple
from voxmim.store.format import Case
from voxmim.text import counted

MIN_STEPS = 800


def steps_for(voxels: int, crop: Triple, batch: int) -> int:
    """The steps that suit training scans of so many voxels, rounded to hundreds.

    They are 600 times the cube root of the steps of one pass over the scans, in which the crops have as many voxels as
    the scans have, and at least `MIN_STEPS`. docs/methods.md has the trainings that this was fitted to.
    """
    steps_of_pass = voxels / (batch * math.prod(crop))
    return max(MIN_STEPS, 100 * round(6 * steps_of_pass ** (1 / 3)))


def with_steps(recipe: Recipe, cases: Sequence[Case], change: str = "") -> Recipe:
    """The recipe with a number of steps: its own, or the one that suits the cases to train on; it must have a crop.

    `change` names the options that replace the number, for a line that tells it; without, none is printed.
    """
    if not recipe.finetune.steps_from_data:
        return recipe
    assert recipe.crop is not None
    voxels = sum(math.prod(case.shape) for case in cases)
    steps = steps_for(voxels, recipe.crop, recipe.finetune.batch)
    if change:
        trained_on = f"{counted(len(cases), 'case')} of {voxels:,} voxels together"
        CONSOLE.print(f"Fine-tuning takes {steps} steps, from {trained_on}; change them with {change}.", soft_wrap=True)
    return replace(recipe, finetune=replace(recipe.finetune, steps=steps))

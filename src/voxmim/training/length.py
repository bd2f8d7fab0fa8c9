"""The number of steps of a fine-tuning whose recipe does not set it (``finetune.steps: null``)."""

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
    """The number of steps for training scans with this many voxels, rounded to hundreds.

    It is 600 times the cube root of the steps of an epoch, in which the crops have as many voxels as the scans, and at
    least `MIN_STEPS`. docs/methods.md shows the trainings that this was fitted to.
    """
    epoch_steps = voxels / (batch * math.prod(crop))
    return max(MIN_STEPS, 100 * round(6 * epoch_steps ** (1 / 3)))


def with_steps(recipe: Recipe, cases: Sequence[Case], change: str = "") -> Recipe:
    """The recipe with a number of steps, which follows from the training cases if the recipe does not set it.

    The recipe must have a crop. `change` are the options that set the number, for a message; if empty, none is printed.
    """
    if not recipe.finetune.steps_from_data:
        return recipe
    assert recipe.crop is not None
    voxels = sum(math.prod(case.shape) for case in cases)
    steps = steps_for(voxels, recipe.crop, recipe.finetune.batch)
    if change:
        trained_on = f"{counted(len(cases), 'case')} of {voxels:,} voxels together"
        CONSOLE.print(
            f"Fine-tuning takes {counted(steps, 'step')}, from {trained_on}; change them with {change}.", soft_wrap=True
        )
    return replace(recipe, finetune=replace(recipe.finetune, steps=steps))

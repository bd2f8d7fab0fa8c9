"""Does pre-training pay once training is done? Dice at each arm's plateau, and the cost to reach another arm's.

An arm's validation curve is done if the last quarter of its steps raised its best Dice by less than 0.005. Its plateau
is that best Dice. Costs are core-minutes: of the fine-tuning's steps, and of the pre-training, divided by the number
of fine-tunings that start from it.
"""

import math
from dataclasses import dataclass

import numpy as np

from voxmim.studies.analysis import FRACTIONS, steps_to

TOLERANCE = 0.005  # of Dice: less is no gain
TAIL = 0.25  # fraction of the steps in which there must be no gain


@dataclass(frozen=True)
class Plateau:
    """Where a validation curve ends.

    Attributes:
        dice: the best of the curve, whose weights are kept.
        step: the first step within `TOLERANCE` of it.
        done: no gain in the last quarter of the steps.
    """

    dice: float
    step: float
    done: bool


@dataclass(frozen=True)
class Cost:
    """What an arm costs, in core-minutes.

    Attributes:
        pretraining: of the pre-training; 0 from scratch.
        step: of a fine-tuning step.
    """

    pretraining: float
    step: float

    def of(self, steps: float, finetunings: float = 1) -> float:
        """Core-minutes of one of `finetunings` fine-tunings of `steps` that start from the same pre-training."""
        return self.step * steps + self.pretraining / finetunings


@dataclass(frozen=True)
class Saving:
    """One arm's way to a fraction of another arm's plateau.

    Attributes:
        fraction: of the other arm's plateau.
        steps, other_steps: that each needs; infinite if it never gets there.
        minutes, other_minutes: core-minutes of these, pre-training included.
        break_even: number of fine-tunings from one pre-training at which both cost the same; infinite if the arm is
            never cheaper, 0 if it is from the first.
    """

    fraction: float
    steps: float
    other_steps: float
    minutes: float
    other_minutes: float
    break_even: float


def plateau(steps: np.ndarray, curve: np.ndarray) -> Plateau:
    """The plateau of one mean validation curve, both (T,)."""
    best = float(curve.max())
    step = float(steps[np.argmax(curve >= best - TOLERANCE)])
    return Plateau(best, step, step <= (1 - TAIL) * float(steps[-1]))


def break_even(own: Cost, own_steps: float, other: Cost, other_steps: float) -> float:
    """How many fine-tunings make `own` as cheap as `other`, each with its pre-training done once."""
    saved_each = other.step * other_steps - own.step * own_steps
    extra = own.pretraining - other.pretraining
    if math.isinf(own_steps):
        return math.inf
    if math.isinf(other_steps):
        return 0.0  # the other arm gets there at no price
    if extra <= 0:
        return 0.0 if saved_each >= 0 else math.inf
    return extra / saved_each if saved_each > 0 else math.inf


def savings(
    own_steps: np.ndarray,
    own_curve: np.ndarray,
    own: Cost,
    other_steps: np.ndarray,
    other_curve: np.ndarray,
    other: Cost,
) -> list[Saving]:
    """The cost of 90, 95, 99 and 100 % of the other arm's plateau, for both arms.

    Args:
        own_steps, other_steps: (T,) of the validations.
        own_curve, other_curve: (T,) mean validation Dice.
        own, other: what each costs.
    """
    target = plateau(other_steps, other_curve).dice
    found = []
    for fraction in FRACTIONS:
        goal = np.array([fraction * target])
        mine, theirs = (
            float(steps_to(steps, curve[None], goal)[0])
            for steps, curve in ((own_steps, own_curve), (other_steps, other_curve))
        )
        even = break_even(own, mine, other, theirs)
        found.append(Saving(fraction, mine, theirs, own.of(mine), other.of(theirs), even))
    return found


def equal_time_steps(steps: int, scratch: Cost, pretrained: Cost) -> int:
    """Steps from scratch that cost as much as `steps` of fine-tuning with its pre-training.

    Rounded up to a multiple of a tenth of `steps`.
    """
    multiple = max(1, steps // 10)
    return multiple * math.ceil(round(pretrained.of(steps) / scratch.step / multiple, 6))

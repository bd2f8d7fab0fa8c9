"""What validation curves say: how soon an arm reaches another's best Dice, where it ends, and what that costs.

Costs are core-minutes of pre-training and fine-tuning.
"""

import math
from dataclasses import dataclass

import numpy as np

from voxmim.tasks.intervals import central, mean_draws
from voxmim.training.plateau import plateau

FRACTIONS = (0.9, 0.95, 0.99, 1.0)  # of another arm's best Dice


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner one arm reaches a fraction of another arm's best Dice than that arm itself."""

    target: float  # that Dice
    own_steps: float  # that the arm needs; infinite if it never reaches the target
    other_steps: float  # that the other arm needs
    ratio: float  # other_steps / own_steps, above 1 if the arm is faster; 0 if it never reaches the target
    low: float  # of the 95 % interval of the ratio
    high: float


@dataclass(frozen=True)
class Cost:
    """What an arm costs, in core-minutes."""

    pretraining: float  # 0 from scratch
    step: float  # of a fine-tuning step

    def of(self, steps: float) -> float:
        """Core-minutes of the pre-training and one fine-tuning of `steps`."""
        return self.step * steps + self.pretraining


@dataclass(frozen=True)
class Saving:
    """One arm's way to a fraction of another arm's plateau; infinite where it never gets there."""

    fraction: float
    steps: float
    other_steps: float
    minutes: float  # core-minutes, pre-training included
    other_minutes: float
    break_even: float  # number of fine-tunings from one pre-training at which both cost the same


def steps_to(steps: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The step (R,) at which each curve (R, T), validated at `steps` (T,), first reaches its target (R,).

    A curve is linear between validations, and nothing is known of it before the first; where it stays below its target,
    the step is infinite.
    """
    reached = curves >= targets[:, None]
    after = reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(curves))
    rise = curves[rows, after] - curves[rows, before]
    part = np.divide(targets - curves[rows, before], rise, out=np.ones_like(rise), where=rise > 0)
    found = steps[before] + np.where(after > 0, part, 0.0) * (steps[after] - steps[before])
    return np.where(reached.any(axis=1), found, np.inf)


def speed_up(
    own_steps: np.ndarray, own: np.ndarray, other_steps: np.ndarray, other: np.ndarray, fraction: float, seed: int = 0
) -> SpeedUp:
    """How much sooner one arm reaches `fraction` of another arm's best, by the mean curves over seeds and cases.

    `own` and `other` are the validation Dice (S, T, C) of the same seeds and cases at steps (T,). Every draw of the
    interval has its own target and curves; where the arm never reaches the target, the ratio is 0, the slowest.
    """

    def ratios(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, ...]:
        targets = fraction * theirs.max(axis=1)
        needed, others = steps_to(own_steps, mine, targets), steps_to(other_steps, theirs, targets)
        return targets, needed, others, others / needed

    found = ratios(own.mean(axis=(0, 2))[None], other.mean(axis=(0, 2))[None])
    drawn = (np.clip(mean_draws(curves, seed), 0, 1) for curves in (own, other))  # a Dice is no lower and no higher
    target, needed, others, ratio = (float(value[0]) for value in found)
    return SpeedUp(target, needed, others, ratio, *central(ratios(*drawn)[3]))


def break_even(own: Cost, own_steps: float, other: Cost, other_steps: float) -> float:
    """How many fine-tunings make `own` as cheap as `other`; infinite if it never is, 0 if it is from the first."""
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
    """The cost of 90, 95, 99 and 100 % of the other arm's plateau, for both arms, from their mean curves, all (T,)."""
    found = []
    for fraction in FRACTIONS:
        goal = np.array([fraction * plateau(other_steps, other_curve).best])
        mine, theirs = (
            float(steps_to(steps, curve[None], goal)[0])
            for steps, curve in ((own_steps, own_curve), (other_steps, other_curve))
        )
        even = break_even(own, mine, other, theirs)
        found.append(Saving(fraction, mine, theirs, own.of(mine), other.of(theirs), even))
    return found


def equal_time_steps(steps: int, scratch: Cost, pretrained: Cost) -> int:
    """Steps from scratch that cost as much as pre-training and fine-tuning, rounded up to tenths of `steps`."""
    multiple = max(1, steps // 10)
    return multiple * math.ceil(round(pretrained.of(steps) / scratch.step / multiple, 6))

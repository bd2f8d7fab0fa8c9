"""Speed-ups and costs from validation curves: when one arm reaches the best Dice of another, in steps and core-minutes.

Costs include pre-training and fine-tuning.
"""

import math
from dataclasses import dataclass

import numpy as np

from voxmim.tasks.intervals import central, mean_draws
from voxmim.training.plateau import plateau

FRACTIONS = (0.9, 0.95, 0.99, 1.0)  # of another arm's best Dice


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner one arm reaches a fraction of another arm's best Dice than the other arm itself."""

    target: float  # that Dice
    own_steps: float  # infinite if the arm never reaches the target
    other_steps: float  # of the other arm
    ratio: float  # other_steps / own_steps, above 1 if the arm is faster; 0 if it never reaches the target
    low: float  # of the 95 % interval of the ratio
    high: float


@dataclass(frozen=True)
class Cost:
    """The cost of an arm, in core-minutes."""

    pretraining: float  # 0 from scratch
    step: float  # of a fine-tuning step

    def of(self, steps: float) -> float:
        """Core-minutes of the pre-training and one fine-tuning of `steps`."""
        return self.step * steps + self.pretraining


@dataclass(frozen=True)
class Saving:
    """The cost of reaching a fraction of another arm's plateau; infinite if the arm never reaches it."""

    fraction: float
    steps: float
    other_steps: float
    minutes: float  # core-minutes with pre-training
    other_minutes: float
    break_even: float  # number of fine-tunings from one pre-training at which both arms cost the same


def steps_to(steps: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The step (R,) at which each curve (R, T), validated at `steps` (T,), first reaches its target (R,).

    Curves are interpolated linearly between validations, and not extrapolated before the first. The step is infinite
    for a curve that stays below its target.
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
    """How much sooner one arm reaches `fraction` of another arm's best Dice, by the mean curves over seeds and cases.

    `own` and `other` are the validation Dice (S, T, C) of the same seeds and cases at steps (T,). Each draw of the
    interval has its own target and curves; its ratio is 0 if the arm never reaches the target.
    """

    def ratios(own_curves: np.ndarray, other_curves: np.ndarray) -> tuple[np.ndarray, ...]:
        targets = fraction * other_curves.max(axis=1)
        own_needed = steps_to(own_steps, own_curves, targets)
        other_needed = steps_to(other_steps, other_curves, targets)
        return targets, own_needed, other_needed, other_needed / own_needed

    values = ratios(own.mean(axis=(0, 2))[None], other.mean(axis=(0, 2))[None])
    draws = (np.clip(mean_draws(curves, seed), 0, 1) for curves in (own, other))  # Dice is between 0 and 1
    target, own_needed, other_needed, ratio = (float(value[0]) for value in values)
    return SpeedUp(target, own_needed, other_needed, ratio, *central(ratios(*draws)[3]))


def break_even(own: Cost, own_steps: float, other: Cost, other_steps: float) -> float:
    """The number of fine-tunings at which `own` costs as much as `other`; infinite if it always costs more."""
    if math.isinf(own_steps):
        return math.inf
    if math.isinf(other_steps):
        return 0.0
    saved_each = other.step * other_steps - own.step * own_steps
    extra = own.pretraining - other.pretraining
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
    """The cost for both arms of reaching `FRACTIONS` of the other arm's plateau, from their mean curves (T,)."""
    found = []
    for fraction in FRACTIONS:
        target = np.array([fraction * plateau(other_steps, other_curve).best])
        own_needed = float(steps_to(own_steps, own_curve[None], target)[0])
        other_needed = float(steps_to(other_steps, other_curve[None], target)[0])
        even = break_even(own, own_needed, other, other_needed)
        found.append(Saving(fraction, own_needed, other_needed, own.of(own_needed), other.of(other_needed), even))
    return found


def equal_time_steps(steps: int, scratch: Cost, pretrained: Cost) -> int:
    """The steps from scratch that cost as much as pre-training and fine-tuning, rounded up to a tenth of `steps`."""
    multiple = max(1, steps // 10)
    return multiple * math.ceil(round(pretrained.of(steps) / scratch.step / multiple, 6))

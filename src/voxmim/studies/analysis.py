"""How much faster one arm reaches another arm's best validation Dice, with an interval over seeds and cases."""

from dataclasses import dataclass

import numpy as np

from voxmim.tasks.intervals import central, mean_draws

FRACTIONS = (0.9, 0.95, 0.99, 1.0)  # of another arm's best Dice


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner one arm reaches a fraction of another arm's best Dice than that arm itself.

    Attributes:
        fraction: of the other arm's best Dice.
        target: that Dice.
        own_steps: steps that the arm needs; infinite if it never reaches the target.
        other_steps: steps that the other arm needs.
        ratio: other_steps / own_steps, above 1 if the arm is faster; 0 if it never reaches the target.
        low, high: 95 % interval of the ratio.
    """

    fraction: float
    target: float
    own_steps: float
    other_steps: float
    ratio: float
    low: float
    high: float


def steps_to(steps: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The step at which each curve first reaches its target, linear between two validations.

    Nothing is known of a curve before its first validation, so no target is reached sooner than that.

    Args:
        steps: (T,) rising.
        curves: (R, T).
        targets: (R,).

    Returns:
        (R,) float64, infinite where a curve stays below its target.
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

    Every draw of the interval has its own target and its own two curves. A draw in which the arm never reaches the
    target counts as ratio 0, the slowest.

    Args:
        own_steps, other_steps: (T,) at which each was validated.
        own, other: (S, T, C) validation Dice of the same S seeds and C cases.
        fraction: of the other's best mean.
        seed: of the draws.
    """

    def ratios(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, ...]:
        targets = fraction * theirs.max(axis=1)
        needed, others = steps_to(own_steps, mine, targets), steps_to(other_steps, theirs, targets)
        return targets, needed, others, others / needed

    target, needed, others, ratio = ratios(own.mean(axis=(0, 2))[None], other.mean(axis=(0, 2))[None])
    drawn = (np.clip(mean_draws(curves, seed), 0, 1) for curves in (own, other))  # a Dice is no lower and no higher
    low, high = central(ratios(*drawn)[3])
    return SpeedUp(fraction, float(target[0]), float(needed[0]), float(others[0]), float(ratio[0]), low, high)

"""What scores of several seeds and cases say: intervals of means and differences, and who is faster by how much.

An arm is trained once with each seed, and each of these runs is scored on the same cases, so its scores are a table of
seeds by cases. Another run differs, and so does another patient: the bootstrap therefore draws seeds and cases anew,
each with replacement and independently of the other (Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1, 2007), which
errs on the side of too wide an interval. Two arms are drawn alike, as the same seed gives both the same labelled cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxmim.tasks.intervals import COVERAGE

RESAMPLES = 2000
SHARES = (0.9, 0.95, 0.99, 1.0)  # of another arm's best, which one is to reach


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner one arm reaches a share of another's best than that other does.

    Attributes:
        share: of the other's best.
        target: the Dice that is.
        own_steps: that the arm needs; infinity where it never reaches it.
        other_steps: that the other needs.
        ratio: other_steps / own_steps, above 1 where the arm is faster; 0 where it never gets there.
        low, high: 95 % interval of the ratio; 0 where even that end never gets there.
        never: share of the resamples in which the arm never gets there.
    """

    share: float
    target: float
    own_steps: float
    other_steps: float
    ratio: float
    low: float
    high: float
    never: float


def crossed_means(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over seeds and cases that are drawn anew, each with replacement.

    Args:
        values: (S, C) of S seeds and C cases, or (S, T, C) at each of T steps; finite.
        seed: fixes the draws: arrays of the same seeds and cases are drawn alike.
        resamples: R, how often.

    Returns:
        (R,) or (R, T) float64.

    Raises:
        ValueError: a value is not finite, or there is none.
    """
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("an interval needs finite values of at least one seed and one case.")
    rng = np.random.default_rng(seed)
    weights = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in (values.shape[0], values.shape[-1])]
    return np.einsum("rs,s...c,rc->r...", weights[0], values.astype(np.float64), weights[1])


def crossed_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of (S, C) values over seeds and cases."""
    low, high = np.quantile(crossed_means(values, seed), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def steps_to(steps: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The step at which each curve first reaches its target, linear between two validations.

    Before its first validation nothing is known of a curve, so it reaches nothing sooner than that.

    Args:
        steps: (T,) rising.
        curves: (R, T).
        targets: (R,).

    Returns:
        (R,) float64, infinity where the curve stays below.
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
    own_steps: np.ndarray, own: np.ndarray, other_steps: np.ndarray, other: np.ndarray, share: float, seed: int = 0
) -> SpeedUp:
    """How much sooner one arm reaches `share` of another's best, by the mean curves over seeds and cases.

    In every resample both the target and the two curves are taken anew. A resample in which the arm never reaches the
    target says only that it is slower than it was trained for; it counts as the slowest of all.

    Args:
        own_steps, other_steps: (T,) at which each was validated.
        own, other: (S, T, C) validation Dice of the same S seeds and C cases.
        share: of the other's best mean.
        seed: of the bootstrap.
    """

    def ratios(mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, ...]:
        targets = share * theirs.max(axis=1)
        needed, others = steps_to(own_steps, mine, targets), steps_to(other_steps, theirs, targets)
        return targets, needed, others, others / needed

    target, needed, others, ratio = ratios(own.mean(axis=(0, 2))[None], other.mean(axis=(0, 2))[None])
    drawn = ratios(crossed_means(own, seed), crossed_means(other, seed))[3]
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    never = float((drawn == 0).mean())
    middle = float(target[0]), float(needed[0]), float(others[0]), float(ratio[0])
    return SpeedUp(share, *middle, float(low), float(high), never)

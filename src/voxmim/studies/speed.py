"""Tables and sentences on how much faster one arm reaches another arm's best validation Dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

from voxmim.report.page import Table
from voxmim.studies.analysis import FRACTIONS, SpeedUp, speed_up
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.tables import marked, unlearned_note


def speed_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """How much sooner each arm reaches a fraction of each other arm's best validation Dice."""
    rows = []
    for arm, other in permutations(arms, 2):
        found = comparison.validation(arm, other)
        if found:
            (steps, own), (other_steps, others) = found
            speeds = [speed_up(steps, own, other_steps, others, fraction) for fraction in FRACTIONS]
            rows.append([marked(comparison, arm), marked(comparison, other), *map(speed_cell, speeds)])
    header = ["arm", "reaches, of the best of", *(f"{fraction:.0%}" for fraction in FRACTIONS)]
    note = (
        "By the mean validation curves, linear between validations: the steps that the arm needs, how many times fewer "
        "they are than those of the other arm, and the 95 % interval of that ratio over seeds and cases. 'never': the "
        "arm stays below until its last step. Learning rates fall to zero at the last step, so a training with fewer "
        "planned steps would be further at the same step."
    )
    title = "Steps to another arm's best validation Dice"
    return Table(title, header, rows, " ".join([note, unlearned_note(comparison, arms)]).strip())


def speed_cell(found: SpeedUp) -> str:
    """Such as ``120 steps, 2.50x (1.80 to 3.10)``."""
    low, high = (f"{value:.2f}" if value > 0 else "never" for value in (found.low, found.high))
    if math.isinf(found.own_steps):
        return f"never ({low} to {high})" if found.high > 0 else "never"
    return f"{found.own_steps:.0f} steps, {found.ratio:.2f}x ({low} to {high})"


def speed_in_words(comparison: Comparison, arm: Arm, other: Arm) -> str:
    """In how many of the other arm's steps an arm reaches the other's best validation Dice."""
    found = comparison.validation(arm, other)
    if not found:
        return ""
    (steps, own), (other_steps, others) = found
    speed = speed_up(steps, own, other_steps, others, 1.0)
    target = f"the best validation Dice of the arm {other.name} ({speed.target:.3f}, step {speed.other_steps:.0f})"
    if math.isinf(speed.own_steps):
        return f"{arm.name} never reached {target}."
    low, high = (f"{value:.2f}" if value > 0 else "never" for value in (speed.low, speed.high))
    return (
        f"{arm.name} reached {target} at step {speed.own_steps:.0f}: {speed.ratio:.2f} times as fast "
        f"(95 % interval {low} to {high})."
    )

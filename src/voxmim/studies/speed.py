"""Tables and sentences on the steps and the cost at which one arm reaches another arm's best validation Dice."""

import math
from collections.abc import Sequence

from voxmim.report.page import Table
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.curves import FRACTIONS, SpeedUp, savings, speed_up
from voxmim.studies.tables import MISSING, marked, table
from voxmim.training.plateau import TOLERANCE, plateau


def speed_table(comparison: Comparison, pairs: Sequence[tuple[Arm, Arm]]) -> Table:
    """How much sooner the first arm of each pair reaches a fraction of the second arm's best validation Dice."""
    rows = []
    for arm, other in pairs:
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
    arms = [arm for pair in pairs for arm in pair]
    return table(comparison, "Steps to another arm's best validation Dice", header, rows, note, arms)


def speed_cell(found: SpeedUp) -> str:
    """Such as ``120 steps, 2.50x (1.80 to 3.10)``."""
    low, high = (f"{value:.2f}" if value > 0 else "never" for value in (found.low, found.high))
    if math.isinf(found.own_steps):
        return f"never ({low} to {high})" if found.high > 0 else "never"
    return f"{found.own_steps:.0f} steps, {found.ratio:.2f}x ({low} to {high})"


def speed_in_words(comparison: Comparison, arm: Arm, other: Arm) -> str:
    """A sentence on when an arm reaches the other arm's best validation Dice."""
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


def plateau_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """The plateau of each arm's mean validation curve, and its cost."""
    rows = []
    for arm in arms:
        found, cost = comparison.validation(arm), comparison.cost(arm)
        if not found or cost is None:
            rows.append([marked(comparison, arm), *[MISSING] * 4])
            continue
        steps, curves = found[0]
        end = plateau(steps, curves.mean(axis=(0, 2)))
        last = float(steps[-1])
        minutes = f"{cost.of(last):.1f}, of which pre-training {cost.pretraining:.1f}"
        reached = f"{end.step:.0f} of {last:.0f}"
        rows.append([marked(comparison, arm), f"{end.best:.3f}", reached, "yes" if end.done else "no", minutes])
    note = (
        f"Plateau: the best Dice of the mean validation curve, at the first step within {TOLERANCE} of it. Done: the "
        "last quarter of the steps gained less than that. An arm that is not done would end higher with more steps, "
        "and one that is done may, since its learning rate falls to 0 over the steps. Core-minutes include validations."
    )
    header = ["arm", "plateau", "step", "done", "core-minutes"]
    return table(comparison, "Plateaus on validation cases", header, rows, note, arms)


def undone_in_words(comparison: Comparison, arms: Sequence[Arm]) -> str:
    """A sentence on the arms whose mean validation curves still rise; empty if there are none."""
    undone = [
        arm.full_name
        for arm in arms
        for steps, curves in comparison.validation(arm)
        if not plateau(steps, curves.mean(axis=(0, 2))).done
    ]
    if not undone:
        return ""
    more = f"--set finetune.steps={2 * arms[0].recipe.finetune.steps}"
    return (
        f"Not done: {'; '.join(undone)}. The last quarter of the steps still raised the validation Dice by {TOLERANCE} "
        f"or more: with more steps, such as {more}, they may end higher."
    )


def saving_table(comparison: Comparison, pairs: Sequence[tuple[Arm, Arm]]) -> Table:
    """The cost for both arms of each pair of reaching fractions of the second arm's plateau."""
    rows = []
    for arm, other in pairs:
        found, own, others = comparison.validation(arm, other), comparison.cost(arm), comparison.cost(other)
        if not found or own is None or others is None:
            continue
        (steps, curves), (other_steps, other_curves) = found
        means = curves.mean(axis=(0, 2)), other_curves.mean(axis=(0, 2))
        for saving in savings(steps, means[0], own, other_steps, means[1], others):
            pair = f"{marked(comparison, arm)} to {saving.fraction:.0%} of {other.name}"
            steps_needed = [_number(value, 0) for value in (saving.steps, saving.other_steps)]
            minutes = [_number(value, 1) for value in (saving.minutes, saving.other_minutes, saving.break_even)]
            rows.append([pair, *steps_needed, *minutes])
    note = (
        "By the mean validation curves. Core-minutes include the whole pre-training. Break-even: the number of "
        "fine-tunings from one pre-training at which both arms cost the same; never if the arm is not cheaper."
    )
    header = ["arm", "steps", "steps of the other", "core-minutes", "of the other", "break-even"]
    arms = [arm for pair in pairs for arm in pair]
    return table(comparison, "Cost to reach another arm's plateau", header, rows, note, arms)


def _number(value: float, digits: int) -> str:
    return "never" if math.isinf(value) else f"{value:.{digits}f}"

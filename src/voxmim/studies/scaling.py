"""Does longer pre-training, or pre-training on more scans, help more?"""

from voxmim.report.plots import Plot
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.speed import plateau_table, undone_in_words
from voxmim.studies.tables import (
    difference_table,
    score_table,
    seeds_caption,
    seeds_curve,
    tested_in_words,
    validation_plot,
)
from voxmim.text import counted
from voxmim.training.pretrain import pretraining_cases

SCANS = (10, 40)  # besides all
LENGTHS = (0.25, 1, 4)  # multiples of the recipe's steps


def arms(request: Request) -> list[Arm]:
    """From scratch, and from pre-trainings on `SCANS` and all scans, each for `LENGTHS` times the recipe's steps."""
    base = request.base
    cases, _ = pretraining_cases(Store(request.stores[0]), base.seed)
    title, found = base.pretext_class.title, [request.scratch()]
    for scans in [*(number for number in SCANS if number < len(cases)), None]:
        group = counted(scans or len(cases), "scan")
        for length in LENGTHS:
            steps = max(1, round(length * base.pretrain.steps))
            settings = {"scans": scans, "pretrain.steps": steps}
            name = f"{title}, {group}, {counted(steps, 'step')}"
            found.append(request.pretrained(base.pretext, settings, name=name, group=group))
    return found


def findings(comparison: Comparison) -> Findings:
    """Scores, differences from scratch, plateaus, and Dice against the steps for each number of scans."""
    scratch, *others = comparison.arms
    every = [scratch, *others]
    return Findings(
        lead=[*(tested_in_words(comparison, scratch, arm) for arm in others), undone_in_words(comparison, every)],
        tables=[
            score_table(comparison, every),
            difference_table(comparison, [(scratch, arm) for arm in others]),
            plateau_table(comparison, every),
        ],
        plots=[_plot(comparison), validation_plot(comparison, every)],
    )


def _plot(comparison: Comparison) -> Plot:
    """The gain in test Dice over scratch against the pre-training steps, with a curve for each number of scans."""
    scratch, *others = comparison.arms
    curves = []
    for group, arms in grouped(others).items():
        gains = {}
        for arm in arms:
            pair = comparison.tested(scratch, arm)
            if pair and arm.pretraining is not None:
                gains[arm.pretraining.recipe.pretrain.steps] = (pair[1] - pair[0]).mean(axis=1)
        curves.append(seeds_curve(group, gains))
    title = "What pre-training gains by its length and its scans"
    return Plot(title, "steps of the pre-training", "test Dice minus from scratch", curves, seeds_caption(comparison))


STUDY = Study("Does more pre-training help more?", arms, findings, recipe="resenc-tiny")

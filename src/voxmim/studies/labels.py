"""What does pre-training bring with how many labels?"""

from __future__ import annotations

import numpy as np

from voxmim.report.plots import Curve, Plot
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import (
    difference_table,
    pretraining_table,
    score_table,
    seeds_caption,
    tested_in_words,
    validation_plot,
)
from voxmim.tasks.intervals import seed_interval

NUMBERS = ("3", "6", "12", "all")  # where nothing else is told


def arms(request: Request) -> list[Arm]:
    """From scratch and from each pre-training, with each number of labelled cases; one group for each number."""
    cases = len(Store(request.stores[0]).labelled("train"))
    numbers = request.labels
    if numbers == NUMBERS:
        numbers = tuple(number for number in NUMBERS if number == "all" or int(number) < cases)
    found = []
    for number in numbers:
        what = "of all labelled cases" if "." in number else "labelled case" + "s" * (number != "1")
        told = {"labels": number, "group": f"{number} {what}"}
        found += [request.scratch(**told), *(request.pretrained(pretext, **told) for pretext in request.pretexts)]
    return found


def findings(comparison: Comparison) -> Findings:
    """A table of results for each number of labels, the differences, and Dice against the number."""
    groups = grouped(comparison.arms)
    pairs = [(own[0], arm) for own in groups.values() for arm in own[1:]]
    return Findings(
        lead=[tested_in_words(comparison, first, second) for first, second in pairs],
        tables=[
            *(score_table(comparison, own, name) for name, own in groups.items()),
            difference_table(comparison, pairs),
            pretraining_table(comparison),
        ],
        plots=[
            _plot(comparison, list(groups.values())),
            *(validation_plot(comparison, own, f"Dice on validation cases, {name}") for name, own in groups.items()),
        ],
    )


def _plot(comparison: Comparison, groups: list[list[Arm]]) -> Plot:
    """Test Dice of each start against the number of labelled cases."""
    curves = []
    for name in [arm.name for arm in groups[0]]:
        points: dict[int, list[float]] = {}
        for arm in (arm for own in groups for arm in own if arm.name == name):
            run, table = comparison.run(arm, comparison.seeds[0]), comparison.tested(arm)
            if run is not None and table:
                points[len(run.about["cases"])] = table[0].mean(axis=1).tolist()
        numbers = sorted(points)
        if not numbers:
            continue
        intervals = [seed_interval(np.array(points[number])[:, None]) for number in numbers]
        lows, highs = ([float(interval[end][0]) for interval in intervals] for end in (0, 1))
        means = [float(np.mean(points[number])) for number in numbers]
        band = (lows, highs) if len(comparison.seeds) > 1 else None
        curves.append(Curve(name, numbers, means, band))
    caption = seeds_caption(comparison)
    return Plot("Dice on test cases by the number of labels", "labelled cases", "mean Dice", curves, caption)


STUDY = Study("What does pre-training gain with how many labels?", arms, findings, labels=NUMBERS)

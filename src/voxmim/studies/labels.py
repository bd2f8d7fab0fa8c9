"""How does the gain from pre-training depend on the number of labels?"""

from voxmim.report.plots import Plot
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import grouped_findings, seeds_caption, seeds_curve

NUMBERS = ("3", "6", "12", "all")  # by default


def arms(request: Request) -> list[Arm]:
    """From scratch and from each pre-training with each number of labelled cases, which is a group."""
    cases = len(Store(request.stores[0]).labelled("train"))
    numbers = request.labels
    if numbers == NUMBERS:
        numbers = tuple(number for number in NUMBERS if number == "all" or int(number) < cases)
    found = []
    for number in numbers:
        group = label_group(number)
        found += [request.scratch(**group), *(request.pretrained(pretext, **group) for pretext in request.pretexts)]
    return found


def label_group(number: str) -> dict[str, str]:
    """The attributes of the arms with this number of labels, for `Request.scratch`."""
    what = "of all labelled cases" if "." in number else "labelled case" + "s" * (number != "1")
    return {"labels": number, "group": f"{number} {what}"}


def findings(comparison: Comparison) -> Findings:
    """Scores and curves for each number of labels, differences from scratch, and Dice against the number."""
    groups = grouped(comparison.arms)
    found = grouped_findings(comparison, [(own[0], arm) for own in groups.values() for arm in own[1:]])
    found.plots = [_plot(comparison, list(groups.values())), *found.plots]
    return found


def _plot(comparison: Comparison, groups: list[list[Arm]]) -> Plot:
    """Test Dice of each start against the number of labelled cases."""
    curves = []
    for name in [arm.name for arm in groups[0]]:
        points = {}
        for arm in (arm for own in groups for arm in own if arm.name == name):
            run, table = comparison.run(arm, comparison.seeds[0]), comparison.tested(arm)
            if run is not None and table:
                points[len(run.about["cases"])] = table[0].mean(axis=1)
        curves.append(seeds_curve(name, dict(sorted(points.items()))))
    title = "Dice on test cases by the number of labels"
    return Plot(title, "labelled cases", "mean Dice", curves, seeds_caption(comparison))


STUDY = Study("What does pre-training gain with how many labels?", arms, findings, labels=NUMBERS)

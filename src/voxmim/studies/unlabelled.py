"""What do unlabelled scans add before the fine-tuning (pre-training), during it (self-training), or both?"""

from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.labels import label_group
from voxmim.studies.request import Request
from voxmim.studies.speed import plateau_table, saving_table, undone_in_words
from voxmim.studies.tables import grouped_findings

WEIGHT = 0.3  # of self-training, where the recipe has none


def arms(request: Request) -> list[Arm]:
    """With each number of labels: from scratch, the same for twice the steps, and with each use of unlabelled scans.

    A step of self-training costs about twice as much; the longer run from scratch compensates for that.
    """
    pretext, found = request.base.pretext, []
    title = request.base.pretext_class.title
    longer = {"finetune.steps": 2 * request.base.finetune.steps}
    self_training = {"self_training.weight": request.base.self_training.weight or WEIGHT}
    supervised = {"self_training.weight": 0.0}
    for number in request.labels:
        group = label_group(number)
        found += [
            request.scratch(supervised, **group),
            request.scratch(supervised | longer, name="from scratch, twice the steps", **group),
            request.scratch(self_training, name="self-training", **group),
            request.pretrained(pretext, supervised, **group),
            request.pretrained(pretext, self_training, name=f"{title} and self-training", **group),
        ]
    return found


def findings(comparison: Comparison) -> Findings:
    """Scores, differences, plateaus, the cost of reaching them, and curves."""
    groups = grouped(comparison.arms).values()
    pairs = [(arms[first], arm) for first in (0, 1) for arms in groups for arm in arms[first + 1 :]]
    found = grouped_findings(comparison, pairs)
    every = list(comparison.arms)
    found.lead.append(undone_in_words(comparison, every))
    savings = [(arm, arms[0]) for arms in groups for arm in arms[2:]]
    found.tables += [plateau_table(comparison, every), saving_table(comparison, savings)]
    return found


STUDY = Study(
    "What do unlabelled scans give: before the fine-tuning, during it, or both?",
    arms,
    findings,
    labels=("3", "6"),
    recipe="resenc-tiny",
)

"""Does pre-training make fine-tuning converge sooner and end higher than training from scratch?"""

from dataclasses import replace
from itertools import combinations

from voxmim.studies import tables
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.curves import equal_time_steps
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.speed import plateau_table, saving_table, speed_in_words, speed_table, undone_in_words

EQUAL_TIME = "from scratch, equal time"


def arms(request: Request) -> list[Arm]:
    """From scratch, from scratch with twice the steps, and from each pre-training of the same encoder."""
    longer = {"finetune.steps": 2 * request.base.finetune.steps}
    return [
        request.scratch(),
        request.scratch(longer, name="from scratch, twice the steps"),
        *(request.pretrained(pretext) for pretext in request.pretexts),
    ]


def follow_up(comparison: Comparison) -> list[Arm]:
    """From scratch for as long as the last pre-training and its fine-tuning take, unless that adds no steps."""
    scratch, pretrained = comparison.arms[0], comparison.arms[-1]
    costs = comparison.cost(scratch), comparison.cost(pretrained)
    if costs[0] is None or costs[1] is None:
        return []
    training = scratch.recipe.finetune
    steps = equal_time_steps(training.steps, costs[0], costs[1])
    if steps <= training.steps:
        return []
    longer = replace(training, steps=steps)
    return [replace(scratch, name=EQUAL_TIME, recipe=replace(scratch.recipe, finetune=longer))]


def findings(comparison: Comparison) -> Findings:
    """Scores, differences, plateaus, the steps and minutes to reach them, curves and segmentations."""
    every = list(comparison.arms)
    scratch, pretrained = every[0], [arm for arm in every if arm.pretraining is not None]
    pairs = [*((scratch, arm) for arm in every[1:]), *combinations(pretrained, 2)]
    lead = [tables.tested_in_words(comparison, scratch, arm) for arm in pretrained]
    lead += [speed_in_words(comparison, arm, scratch) for arm in pretrained]
    lead.append(undone_in_words(comparison, every))
    return Findings(
        lead=lead,
        tables=[
            tables.score_table(comparison, every),
            tables.difference_table(comparison, pairs),
            speed_table(comparison, [(second, first) for first, second in pairs]),
            plateau_table(comparison, every),
            saving_table(comparison, [(arm, scratch) for arm in pretrained]),
            tables.pretraining_table(comparison),
        ],
        plots=[tables.validation_plot(comparison, every)],
        pictures=tables.segmentations(comparison, [scratch, *pretrained]),
    )


STUDY = Study(
    "Does pre-training make fine-tuning converge sooner, and end higher?", arms, findings, follow_up=follow_up
)

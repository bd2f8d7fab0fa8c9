"""Does masked pre-training make the fine-tuning converge sooner, and end higher, than SimCLR's and than none?"""

from __future__ import annotations

from itertools import combinations

from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.speed import speed_in_words, speed_table
from voxmim.studies.tables import (
    difference_table,
    pretraining_table,
    score_table,
    segmentations,
    tested_in_words,
    validation_plot,
)


def arms(request: Request) -> list[Arm]:
    """From scratch, from scratch with twice the steps, and from each pre-training of the same encoder."""
    longer = {"finetune.steps": 2 * request.base.finetune.steps}
    return [
        request.scratch(),
        request.scratch(longer, name="from scratch, twice the steps"),
        *(request.pretrained(pretext) for pretext in request.pretexts),
    ]


def findings(comparison: Comparison) -> Findings:
    """Results, differences of each pair, the steps that each needs, curves, and some segmentations."""
    scratch, _, *pretrained = every = list(comparison.arms)
    lead = [tested_in_words(comparison, scratch, arm) for arm in pretrained]
    lead += [speed_in_words(comparison, arm, scratch) for arm in pretrained]
    return Findings(
        lead=lead,
        tables=[
            score_table(comparison, every),
            difference_table(comparison, list(combinations(every, 2))),
            speed_table(comparison, every),
            pretraining_table(comparison),
        ],
        plots=[validation_plot(comparison, every)],
        pictures=segmentations(comparison, [scratch, *pretrained]),
    )


STUDY = Study("Does pre-training make fine-tuning converge sooner, and end higher?", arms, findings)

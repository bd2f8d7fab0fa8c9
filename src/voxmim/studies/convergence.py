"""Does masked pre-training make the fine-tuning converge sooner, and end higher, than SimCLR's and than none?"""

from __future__ import annotations

from itertools import combinations

from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.asked import Asked
from voxmim.studies.tables import (
    difference_table,
    pretraining_table,
    score_table,
    segmentations,
    speed_in_words,
    speed_table,
    tested_in_words,
    validation_plot,
)
from voxmim.studies.write import Shown


def arms(asked: Asked) -> list[Arm]:
    """From scratch, from scratch with twice the steps, and from each pre-training of the same encoder."""
    longer = {"finetune.steps": 2 * asked.base.finetune.steps}
    return [
        asked.scratch(),
        asked.scratch(longer, name="from scratch, twice the steps"),
        *(asked.pretrained(pretext) for pretext in asked.pretexts),
    ]


def shown(comparison: Comparison) -> Shown:
    """Results, differences of each pair, the steps that each needs, curves, and some segmentations."""
    scratch, _, *pretrained = every = list(comparison.arms)
    lead = [tested_in_words(comparison, scratch, arm) for arm in pretrained]
    lead += [speed_in_words(comparison, arm, scratch) for arm in pretrained]
    return Shown(
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

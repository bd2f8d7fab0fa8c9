"""How light may the decoder of a masked pre-training be?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxmim.errors import RecipeError
from voxmim.report.page import Table
from voxmim.report.plots import Point, Scatter
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import (
    best_of,
    best_scores,
    difference_table,
    score_table,
    tested_in_words,
    validation_plot,
    validation_table,
)
from voxmim.tasks.intervals import mean_interval

DEPTHS = (1, 2, 4)
LINEAR = "SimMIM, linear head"


def arms(request: Request) -> list[Arm]:
    """From scratch; MAE with decoders of several depths and widths; and SimMIM, whose head is a single linear layer.

    A decoder of no depth could not be MAE's: without attention a hidden place would know nothing but where it is.

    Raises:
        RecipeError: MAE has no decoder to choose with this encoder.
    """
    if request.base.encoder != "vit":
        raise RecipeError(f"the study decoder needs the encoder vit, not {request.base.encoder}; take another recipe.")
    mae = request.recipe_of("mae").pretext_settings
    width, heads = mae.decoder_width, mae.decoder_heads
    widths = [width // 2, width] if width % (2 * heads) == 0 else [width]
    found = [request.scratch()]
    for depth in DEPTHS:
        for size in widths:
            settings = {"mae.decoder_depth": depth, "mae.decoder_width": size}
            found.append(request.pretrained("mae", settings, name=f"MAE, depth {depth}, width {size}"))
    return [*found, request.pretrained("simmim", name=LINEAR)]


def tested(comparison: Comparison) -> Sequence[Arm]:
    """From scratch, the lightest decoder, and the one that does best on validation cases."""
    scratch, lightest, *others = comparison.arms
    best = best_of(comparison, [lightest, *others])
    return [scratch, lightest, *([best] if best not in (None, lightest) else [])]


def findings(comparison: Comparison) -> Findings:
    """Cost against quality as a plot and a table, and the results of those that were tested."""
    arms = list(tested(comparison))
    pairs = [(arms[0], arm) for arm in arms[1:]] + ([(arms[1], arms[2])] if len(arms) == 3 else [])
    return Findings(
        lead=[tested_in_words(comparison, *pair) for pair in pairs],
        tables=[
            score_table(comparison, arms),
            difference_table(comparison, pairs),
            validation_table(comparison, comparison.arms),
            _costs(comparison),
        ],
        plots=[*_cost_plot(comparison), validation_plot(comparison, arms)],
    )


def _seconds(comparison: Comparison, arm: Arm) -> float | None:
    """Seconds of a step of the pre-training with the first seed: the mean of the middle half of its steps."""
    run = comparison.finished(arm.pretrain(comparison.seeds[0]))
    rows = [] if run is None else run.metrics()
    steps = np.sort(np.diff([row["seconds"] for row in rows]))  # validations and checkpoints are the slowest few
    if len(steps) == 0:
        return None
    quarter = len(steps) // 4
    return float(steps[quarter : len(steps) - quarter].mean())


def _costs(comparison: Comparison) -> Table:
    rows = []
    for arm in comparison.arms[1:]:
        seconds, table = _seconds(comparison, arm), best_scores(comparison, arm)
        dice = "not there" if table is None else f"{table.mean():.3f}"
        rows.append([arm.name, "not there" if seconds is None else f"{1000 * seconds:.1f}", dice])
    note = (
        "Milliseconds of an optimiser step of the pre-training, reading of its crops included: the mean of the middle "
        "half of all steps with the first seed, on the machine named above, beside whatever else it did."
    )
    return Table("What a step costs", ["arm", "ms a step", "validation Dice"], rows, note)


def _cost_plot(comparison: Comparison) -> list[Scatter]:
    points = []
    for arm in comparison.arms[1:]:
        seconds, table = _seconds(comparison, arm), best_scores(comparison, arm)
        if seconds is not None and table is not None:
            series = "SimMIM" if arm.name == LINEAR else "MAE"
            points.append(Point(arm.name, series, 1000 * seconds, float(table.mean()), mean_interval(table)))
    title = "Cost of the pre-training against quality of the fine-tuning"
    caption = "Bars: 95 % intervals over seeds and validation cases."
    chart = Scatter(title, "milliseconds of a pre-training step", "best Dice on validation cases", points, caption)
    return [chart] if points else []


STUDY = Study("How light may the decoder be?", arms, findings, tested)

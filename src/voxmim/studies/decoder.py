"""How light can the decoder of a masked pre-training be?"""

from collections.abc import Sequence

from voxmim.errors import RecipeError
from voxmim.networks.build import ENCODERS
from voxmim.report.page import Table
from voxmim.report.plots import Point, Scatter
from voxmim.studies import tables
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.tasks.intervals import mean_interval

DEPTHS = (1, 2, 4)
LINEAR = "SimMIM, linear head"


def arms(request: Request) -> list[Arm]:
    """From scratch, MAE with decoders of several depths and widths, and SimMIM, whose head is a single linear layer.

    A decoder needs at least one block: without attention, masked tokens have only their position.

    Raises:
        RecipeError: this encoder's MAE has no decoder of blocks.
    """
    encoder = request.base.encoder
    if not {"mae", "simmim"} <= set(request.pretexts) or not ENCODERS[encoder].encoder.encodes_visible:
        fitting = " or ".join(name for name, entry in ENCODERS.items() if entry.encoder.encodes_visible)
        raise RecipeError(f"the study decoder needs the encoder {fitting}, not {encoder}; take another recipe.")
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
    """From scratch, the lightest decoder, and the best one on validation cases."""
    scratch, lightest, *others = comparison.arms
    best = tables.best_of(comparison, [lightest, *others])
    return [scratch, lightest, *([best] if best not in (None, lightest) else [])]


def findings(comparison: Comparison) -> Findings:
    """Cost against Dice as a plot and a table, and the results of the tested arms."""
    arms = list(tested(comparison))
    pairs = [(arms[0], arm) for arm in arms[1:]] + ([(arms[1], arms[2])] if len(arms) == 3 else [])
    costs, points = _costs(comparison)
    return Findings(
        lead=[tables.tested_in_words(comparison, *pair) for pair in pairs],
        tables=[
            tables.score_table(comparison, arms),
            tables.difference_table(comparison, pairs),
            tables.validation_table(comparison, comparison.arms),
            costs,
        ],
        plots=[*points, tables.validation_plot(comparison, arms)],
    )


def _costs(comparison: Comparison) -> tuple[Table, list[Scatter]]:
    """Milliseconds of a pre-training step with the first seed against validation Dice, as a table and a plot."""
    rows, points = [], []
    for arm in comparison.arms[1:]:
        run, scores = comparison.finished(arm.pretrain(comparison.seeds[0])), tables.best_scores(comparison, arm)
        if run is None or scores is None:
            rows.append([tables.marked(comparison, arm), tables.MISSING, tables.MISSING])
            continue
        milliseconds, dice = 1000 * run.about["speed"]["step_seconds"], float(scores.mean())
        rows.append([tables.marked(comparison, arm), f"{milliseconds:.1f}", f"{dice:.3f}"])
        series = "SimMIM" if arm.name == LINEAR else "MAE"
        points.append(Point(arm.name, series, milliseconds, dice, mean_interval(scores)))
    note = "Median time of an optimiser step of the pre-training, reading of its crops included, with the first seed."
    table = Table("Cost of a step", ["arm", "ms a step", "validation Dice"], rows, note)
    title, caption = "Cost of pre-training against Dice after fine-tuning", "Bars: 95 % intervals over seeds and cases."
    labels = ("milliseconds of a pre-training step", "best Dice on validation cases")
    return table, [Scatter(title, *labels, points, caption)] if points else []


STUDY = Study("How light may the decoder be?", arms, findings, tested)

"""Does pre-training help? Two arms: from scratch, and from the recipe's pre-training."""

from voxmim.report.plots import Plot
from voxmim.report.run_page import pretraining_curves
from voxmim.report.run_pictures import reconstruction_pictures
from voxmim.store.format import Store
from voxmim.studies import tables
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.speed import plateau_table, speed_in_words, undone_in_words


def arms(request: Request) -> list[Arm]:
    """From scratch, and pre-trained by the recipe's pretext."""
    return [request.scratch(), request.pretrained(request.base.pretext, name="pre-trained")]


def findings(comparison: Comparison) -> Findings:
    """Scores overall and by label, curves of both trainings, reconstructions and segmentations."""
    scratch, pretrained = arms = list(comparison.arms)
    start = pretrained.pretrain(comparison.seeds[0])
    assert start is not None
    encoder = comparison.finished(start)
    recipe, pretext = start.recipe, start.recipe.pretext_class
    title, axis = pretext.loss_name(recipe.pretext_settings)
    curves = [] if encoder is None else pretraining_curves(encoder.metrics(), pretext.guess)
    return Findings(
        lead=[
            f"A {recipe.encoder_settings.summary()} {pretext.summary(recipe.pretext_settings, recipe.mask)}, without "
            "labels. Then a segmentor was trained from scratch and from that encoder, on the same labelled cases for "
            "the same number of steps, each at the learning rate that did best on validation cases.",
            tables.tested_in_words(comparison, scratch, pretrained),
            speed_in_words(comparison, pretrained, scratch),
            undone_in_words(comparison, arms),
        ],
        tables=[
            tables.score_table(comparison, arms),
            tables.label_table(comparison, arms),
            tables.difference_table(comparison, [(scratch, pretrained)]),
            plateau_table(comparison, arms),
            tables.pretraining_table(comparison),
        ],
        plots=[
            tables.validation_plot(comparison, arms),
            Plot(f"Pre-training: {title}", "optimiser step", axis, curves),
        ],
        pictures=[
            *([] if encoder is None else reconstruction_pictures(encoder, Store(start.store))),
            *tables.segmentations(comparison, arms, "test"),
        ],
    )


STUDY = Study("Does pre-training help?", arms, findings)

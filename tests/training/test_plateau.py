"""Detection of a plateau, on curves evaluated by hand."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import TinyRuns
from voxmim.report.run_page import done_in_words
from voxmim.training.plateau import Plateau, in_words, plateau
from voxmim.training.run import Run

STEPS = np.array([100, 200, 300, 400])


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5, 0.7, 0.798, 0.8], Plateau(0.8, 300, True)),  # the last quarter gained 0.002
        ([0.5, 0.7, 0.79, 0.8], Plateau(0.8, 400, False)),  # gained 0.01
        (
            [0.5, 0.8, 0.7, 0.6],
            Plateau(0.8, 200, True),
        ),  # a decrease counts as no gain, since the best weights are kept
        ([0.3, 0.3, 0.3, 0.3], Plateau(0.3, 100, True)),
    ],
)
def test_a_curve_has_converged_if_the_last_quarter_gains_less_than_the_tolerance(
    curve: list[float], expected: Plateau
) -> None:
    assert plateau(STEPS, np.array(curve)) == expected


def test_a_converged_training_is_reported_as_done() -> None:
    sentence = in_words(STEPS, np.array([0.5, 0.7, 0.8, 0.8]), "mean Dice")
    assert sentence.startswith(
        "The last quarter of the steps raised the mean Dice by less than 0.005: this training is done."
    )
    assert "with --steps 800, may end higher" in sentence


def test_a_training_that_still_improves_is_recommended_twice_the_steps() -> None:
    sentence = in_words(STEPS, np.array([0.5, 0.7, 0.75, 0.8]), "mean Dice")
    assert "raised the mean Dice by 0.050: a longer training may end higher, such as one with --steps 800" in sentence


def test_too_few_validations_give_no_sentence() -> None:
    assert in_words(STEPS[:2], np.array([0.5, 0.7]), "mean Dice") == ""


def test_a_pre_training_is_judged_by_its_loss_relative_to_guessing(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [0.9, 0.6, 0.5, 0.4]
    rows = [{"step": float(step), "val_loss": loss, "val_guess": 1.0} for step, loss in zip(STEPS, losses, strict=True)]
    monkeypatch.setattr(Run, "metrics", lambda _: rows)
    assert "of the loss of guessing that is avoided by 0.100" in done_in_words(Run.open(tiny_runs.pretrain))


def test_an_unfinished_run_gets_no_sentence(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": float(step), "val_loss": 0.5, "val_guess": 1.0} for step in range(1, 6)]  # of 6
    monkeypatch.setattr(Run, "metrics", lambda _: rows)
    assert done_in_words(Run.open(tiny_runs.pretrain)) == ""

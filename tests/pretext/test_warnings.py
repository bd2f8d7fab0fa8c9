"""Warnings about pre-trainings that do not learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Tiny
from voxmim import api
from voxmim.networks.unet import ResidualEncoder, UNetSettings
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAE, MAESettings
from voxmim.pretext.masked import ERRORS, MaskedOutput
from voxmim.pretext.simclr import SimCLR, SimCLRSettings, nt_xent
from voxmim.settings import MaskSettings
from voxmim.training.run import Run

HEAD = SimCLRSettings(projection_width=64)


@pytest.mark.parametrize(("step", "loss", "expected"), [(25, 0.2, True), (99, 0.199, True), (99, 0.19, False),
                                                        (99, 0.3, True), (24, 0.3, False)])  # fmt: skip
def test_a_loss_no_better_than_a_constant_prediction_gives_a_warning_after_a_quarter_of_the_steps(
    step: int, loss: float, expected: bool
) -> None:
    warning = MAE.warning(MAESettings(), {"step": step, "val_loss": loss, "val_guess": 0.2}, 100)
    assert bool(warning) == expected
    if expected:
        assert f"after {step} of 100 steps" in warning
        assert f"{loss:.4f}, and one grey value per crop has 0.2000" in warning
        assert "pretrain.lr" in warning


@pytest.mark.parametrize(("loss", "expected"), [(4.35, True), (5.18, True), (4.14, True), (3.9, False)])
def test_views_matched_no_better_than_by_guessing_give_a_warning(loss: float, expected: bool) -> None:
    row = {"step": 100, "val_loss": loss, "val_guess": math.log(63), "val_std": 0.1, "val_accuracy": 0.1}
    warning = SimCLR.warning(HEAD, row, 100)
    assert bool(warning) == expected
    assert not expected or f"{loss:.4f}, and guessing the partner of a view has 4.1431" in warning


@pytest.mark.parametrize(("step", "std", "expected"), [(25, 0.0, True), (99, 0.012, True), (99, 0.013, False),
                                                       (24, 0.0, False)])  # fmt: skip
def test_a_collapse_gives_a_warning(step: int, std: float, expected: bool) -> None:
    warning = SimCLR.warning(HEAD, {"step": step, "val_loss": 3.0, "val_guess": 4.1, "val_std": std}, 100)
    assert bool(warning) == expected
    if expected:
        assert "has collapsed" in warning
        assert f"std {std:.4f}; 0.1250 would fill" in warning


def test_without_a_validation_there_is_no_warning() -> None:
    assert MAE.warning(MAESettings(), {"step": 100, "loss": 9.0}, 100) == ""


def test_old_rows_without_a_guess_are_read() -> None:
    assert SimCLR.warning(HEAD, {"step": 100, "val_loss": 9.0, "val_std": 0.1}, 100) == ""


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_no_constant_prediction_is_better_than_the_guess(loss: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    target, mask = torch.rand(1, 6, 5, generator=draw) ** 3, torch.tensor([[True, False, True, True, False, True]])
    hidden = target[mask]
    tried = [float(ERRORS[loss](torch.full_like(hidden, value), hidden)) for value in np.linspace(0, 1, 401)]
    network = DenseMAE(ResidualEncoder(UNetSettings(4, (1, 1))), MAESettings(loss=loss), MaskSettings())
    guess = float(network.figures(MaskedOutput(torch.tensor(0.0), target, target, mask))["val_guess"])
    assert guess == pytest.approx(min(tried), rel=1e-3)
    assert guess <= min(tried) * (1 + 1e-6)


def test_the_guess_for_views_is_a_uniform_draw_among_all_others() -> None:
    a, b = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    output = nt_xent(a, b, 1e6)  # the cosines have no effect
    assert output.loss.item() == pytest.approx(math.log(output.others), abs=1e-4)
    assert output.others == 31


@pytest.mark.parametrize("pretext", ["mae", "simclr"])
def test_a_warning_is_printed_once_and_in_the_report(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pretext: str
) -> None:
    """MAE is not trained at all; for SimCLR, the metrics of a collapse are substituted."""
    settings = {"pretext": pretext, "pretrain.lr": 1e-9, "pretrain.steps": 3, "pretrain.validate_every": 1}
    collapsed = dict(zip(SimCLR.columns, torch.tensor([1.0, 1.0, 0.0, 0.5]), strict=True))
    monkeypatch.setattr(SimCLR, "figures", lambda self, output: collapsed)
    run = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings)
    expected = {"mae": "has learned hardly anything", "simclr": "has collapsed"}[pretext]
    assert capsys.readouterr().out.count(expected) == 1
    assert expected in (run / "report.html").read_text()


def test_a_network_that_learns_gives_no_warning(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"pretrain.steps": 60, "pretrain.lr": 5e-3, "pretrain.batch": 4, "pretrain.validate_every": 60}
    run = Run.open(api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings))
    assert run.metrics()[-1]["val_loss"] < run.metrics()[-1]["val_guess"]
    assert "hardly anything" not in capsys.readouterr().out + (run.path / "report.html").read_text()


def test_a_single_validation_reports_the_loss_without_a_change() -> None:
    first, last = ({"step": step, "val_loss": loss, "val_guess": 0.9} for step, loss in ((10.0, 0.5), (20.0, 0.4)))
    assert "the loss is 0.500; " in MAE.progress(MAESettings(), first, first)
    assert "the loss fell from 0.500 to 0.400; " in MAE.progress(MAESettings(), first, last)
    assert "the loss rose from 0.400 to 0.500; " in MAE.progress(MAESettings(), {**last, "step": 5.0}, first)

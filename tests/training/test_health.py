"""A pre-training that does not learn is told so, and one that does is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Tiny
from voxmim import api
from voxmim.pretext.mae import ERRORS, MAEOutput
from voxmim.recipe import make_recipe
from voxmim.training.health import complaint
from voxmim.training.objectives import Contrastive, constant_loss
from voxmim.training.run import Run

MAE = make_recipe({"pretrain": {"steps": 100}})
SIMCLR = make_recipe({"pretext": "simclr", "pretrain": {"steps": 100}, "simclr": {"projection_width": 64}})


@pytest.mark.parametrize(("step", "loss", "told"), [(25, 0.2, True), (99, 0.199, True), (99, 0.19, False),
                                                    (99, 0.3, True), (24, 0.3, False)])  # fmt: skip
def test_a_reconstruction_that_is_as_good_as_grey_is_told_after_a_quarter(step: int, loss: float, told: bool) -> None:
    said = complaint(MAE, {"step": step, "val_loss": loss, "val_constant": 0.2})
    assert bool(said) == told
    if told:
        assert f"after {step} of 100 steps" in said
        assert f"{loss:.4f}, and painting each crop in one grey value has 0.2000" in said
        assert "pretrain.lr" in said


@pytest.mark.parametrize(("step", "spread", "told"), [(25, 0.0, True), (99, 0.012, True), (99, 0.013, False),
                                                      (24, 0.0, False)])  # fmt: skip
def test_a_collapse_is_told(step: int, spread: float, told: bool) -> None:
    said = complaint(SIMCLR, {"step": step, "val_loss": 3.0, "val_spread": spread})
    assert bool(said) == told
    if told:
        assert "has collapsed" in said
        assert f"spread {spread:.4f}; 0.1250 would fill" in said


def test_without_a_validation_nothing_is_said() -> None:
    assert complaint(MAE, {"step": 100, "loss": 9.0}) == ""


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_no_grey_value_does_better_than_the_constant(loss: str) -> None:
    draw = torch.Generator().manual_seed(0)
    target, mask = torch.rand(1, 6, 5, generator=draw) ** 3, torch.tensor([[True, False, True, True, False, True]])
    hidden = target[mask]
    tried = [float(ERRORS[loss](torch.full_like(hidden, value), hidden)) for value in np.linspace(0, 1, 401)]
    found = constant_loss(MAEOutput(torch.tensor(0.0), target, target, mask), loss)
    assert found == pytest.approx(min(tried), rel=1e-3)
    assert found <= min(tried) * (1 + 1e-6)


@pytest.mark.parametrize("pretext", ["mae", "simclr"])
def test_it_is_said_once_on_the_console_and_in_the_report(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pretext: str
) -> None:
    """An encoder that is not trained at all reconstructs nothing; projections that are all the same are put in."""
    settings = {"pretext": pretext, "pretrain.lr": 1e-9, "pretrain.steps": 3, "pretrain.validate_every": 1}
    collapsed = {"val_loss": 1.0, "val_spread": 0.0, "val_accuracy": 0.5}
    monkeypatch.setattr(Contrastive, "validate", lambda self, fabric: collapsed)
    run = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings)
    said = {"mae": "sees hardly anything yet", "simclr": "has collapsed"}[pretext]
    assert capsys.readouterr().out.count(said) == 1
    assert said in (run / "report.html").read_text()


def test_nothing_is_said_of_a_network_that_learns(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"pretrain.steps": 60, "pretrain.lr": 5e-3, "pretrain.batch": 4, "pretrain.validate_every": 60}
    run = Run.open(api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings))
    assert run.metrics()[-1]["val_loss"] < run.metrics()[-1]["val_constant"]
    assert "hardly anything" not in capsys.readouterr().out + (run.path / "report.html").read_text()

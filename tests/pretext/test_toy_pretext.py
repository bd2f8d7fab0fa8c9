"""A new pretext needs one class and one registry entry to be trained, reported and fine-tuned from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from conftest import Tiny
from voxmim import api
from voxmim.errors import RecipeError, WeightsError
from voxmim.networks.base import Encoder
from voxmim.pretext.build import PRETEXTS
from voxmim.pretext.pretext import Pretext
from voxmim.recipe import load_recipe
from voxmim.settings import MaskSettings, check_range
from voxmim.training.run import Run


@dataclass
class BrightnessSettings:
    """Predict the mean of a crop.

    Attributes:
        gain: of the target.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "gain", 0, bounds="()")


class BrightnessOutput(NamedTuple):
    loss: Tensor
    target: Tensor


class Brightness(Pretext):
    Settings = BrightnessSettings
    title = "Brightness"
    columns = ("val_loss", "val_guess", "val_mean")
    guess = "a brightness of zero"

    def __init__(self, encoder: Encoder, settings: BrightnessSettings, mask: MaskSettings) -> None:
        super().__init__()
        self.encoder, self.settings, self.head = encoder, settings, nn.Linear(encoder.width, 1)

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        return (image,)

    def forward(self, volume: Tensor) -> BrightnessOutput:
        predicted = self.head(self.encoder.encode(volume).mean((2, 3, 4)))[:, 0]
        target = self.settings.gain * volume.mean((1, 2, 3, 4))
        return BrightnessOutput((predicted - target).square().mean(), target)

    def figures(self, output: BrightnessOutput) -> dict[str, Tensor]:
        target = output.target
        return {"val_loss": output.loss, "val_guess": target.square().mean(), "val_mean": target.mean()}

    @classmethod
    def summary(cls, settings: BrightnessSettings, mask: MaskSettings) -> str:
        return f"learned how bright a crop is, times {settings.gain:g}"

    @classmethod
    def loss_name(cls, settings: BrightnessSettings) -> tuple[str, str]:
        return "Error of the brightness", "squared error"


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRETEXTS, "brightness", Brightness)


def test_a_registered_pretext_is_trained_reported_and_fine_tuned_from(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"pretext": "brightness", "brightness.gain": 3.0, "pretrain.steps": 8, "pretrain.lr": 1e-2}
    run = Run.open(api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings))
    assert run.recipe().pretext_settings == BrightnessSettings(3.0)
    validated = [row for row in run.metrics() if "val_loss" in row]
    assert validated[-1]["val_loss"] < validated[0]["val_loss"]
    assert validated[-1]["val_mean"] == validated[0]["val_mean"]
    report = (run.path / "report.html").read_text()
    for text in ("learned how bright a crop is, times 3", "Error of the brightness", "a brightness of zero"):
        assert text in report

    tuned = Run.open(api.finetune(tiny.store, tmp_path / "tuned", init=run.path, settings={"finetune.steps": 1}))
    assert tuned.recipe().pretext == "brightness"
    assert "100.0% of the encoder" in tuned.about["transfer"]
    with pytest.raises(WeightsError, match="Brightness predicts no voxels to reconstruct"):
        api.reconstruct(run.path, [next((tiny.source / "imagesTr").iterdir())], tmp_path / "pictures")


def test_a_pretext_that_learns_nothing_gives_a_warning(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"pretext": "brightness", "pretrain.steps": 1, "pretrain.lr": 1e-12}
    torch.manual_seed(0)
    run = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings | {"brightness.gain": 1e-3})
    expected = "and a brightness of zero has"
    assert expected in " ".join(capsys.readouterr().out.split())
    assert expected in (run / "report.html").read_text()


def test_settings_of_a_registered_pretext_are_checked(tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match=r"brightness\.gain is -1.0, but must be above 0"):
        load_recipe(tiny.recipe, {"pretext": "brightness", "brightness.gain": -1.0})
    with pytest.raises(RecipeError, match=r"'brightness\.gian' is not a setting; did you mean 'brightness.gain'"):
        load_recipe(tiny.recipe, {"brightness.gian": 1.0})

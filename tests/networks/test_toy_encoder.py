"""A new encoder needs one file and one registry entry to be pre-trained, fine-tuned and used for prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import Tiny
from voxmim import api
from voxmim.errors import RecipeError
from voxmim.networks.base import Encoder, Segmentor
from voxmim.networks.build import ENCODERS, EncoderEntry
from voxmim.pretext.build import fitting_pretexts
from voxmim.recipe import load_recipe
from voxmim.settings import Triple, UNETRSettings, check_range
from voxmim.training.run import Run


@dataclass
class PoolSettings:
    """Patches that are embedded and mixed.

    Attributes:
        patch: voxels of a patch along X, Y, Z.
        width: channels.
    """

    patch: Triple = (4, 4, 4)
    width: int = 8

    sizes: ClassVar[dict[str, dict[str, Any]]] = {"wide": {"width": 12}}
    min_cells: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range(self, "patch width", 1)

    @property
    def stride(self) -> Triple:
        return self.patch

    def summary(self) -> str:
        return f"pool of width {self.width}"


class Pool(Encoder):
    takes_mask_token = True

    def __init__(self, settings: PoolSettings, channels: int = 1, crop: Triple | None = None) -> None:
        super().__init__()
        self.channels, self.patch, self.stride = channels, settings.patch, settings.patch
        self.width = self.embed_width = settings.width
        self.embed = nn.Conv3d(channels, settings.width, settings.patch, settings.patch)
        self.mix = nn.Conv3d(settings.width, settings.width, 3, padding=1)

    @property
    def layers(self) -> list[tuple[str, ...]]:
        return [("mix",)]

    def forward(self, volume: Tensor) -> Tensor:
        return self.encode(volume)

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        cells = self.embed(volume)
        if hidden is not None and token is not None:
            cells = torch.where(hidden.reshape(len(cells), 1, *cells.shape[2:]), token[:, None, None, None], cells)
        return self.mix(cells)


class PoolSegmentor(Segmentor):
    def __init__(self, encoder: Pool, classes: int, settings: UNETRSettings) -> None:
        super().__init__()
        self.encoder, self.out = encoder, nn.Conv3d(encoder.width, classes, 1)

    def forward(self, volume: Tensor) -> Tensor:
        logits = self.out(self.encoder.encode(volume))
        return functional.interpolate(logits, size=tuple(volume.shape[2:]), mode="trilinear")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "pool", EncoderEntry(PoolSettings, Pool, PoolSegmentor))


def test_the_pretexts_that_fit_follow_from_its_methods() -> None:
    assert fitting_pretexts("pool") == ["simmim", "simclr"]


def test_a_registered_encoder_is_pre_trained_fine_tuned_and_predicts(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"encoder": "pool", "pretext": "simmim", "pool.size": "wide", "pretrain.steps": 2}
    run = Run.open(api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings))
    assert run.recipe().encoder_settings == PoolSettings(width=12)
    assert "pool of width 12" in (run.path / "report.html").read_text()

    tuned = Run.open(api.finetune(tiny.store, tmp_path / "tuned", init=run.path, settings={"finetune.steps": 1}))
    assert tuned.recipe().encoder == "pool"
    assert "100.0% of the encoder" in tuned.about["transfer"]
    scan = tiny.source / "imagesTr" / "case_7.nii.gz"
    (labels,) = api.predict(tuned.path, [scan], tmp_path / "labels")
    assert nib.load(labels).shape == nib.load(scan).shape


def test_settings_of_a_registered_encoder_are_checked(tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match=r"pool\.width is 0, but must be at least 1"):
        load_recipe(tiny.recipe, {"encoder": "pool", "pretext": "simclr", "pool.width": 0})
    with pytest.raises(RecipeError, match=r"cannot pre-train the encoder pool; use vit or unet"):
        load_recipe(tiny.recipe, {"encoder": "pool"})

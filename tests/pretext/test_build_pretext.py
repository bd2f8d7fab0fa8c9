"""From settings to pretexts and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from voxmim.networks.build import ENCODERS, build_encoder
from voxmim.pretext.build import build_pretext, described_pretext, fitting_pretexts
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAE, MAESettings
from voxmim.pretext.pretext import describe_pretext
from voxmim.pretext.simclr import SimCLR
from voxmim.pretext.simmim import SimMIM
from voxmim.recipe import Recipe, make_recipe

NETWORKS = {
    ("mae", "vit"): MAE, ("mae", "unet"): DenseMAE, ("simmim", "vit"): SimMIM, ("simmim", "swin"): SimMIM,
    ("simclr", "vit"): SimCLR, ("simclr", "swin"): SimCLR, ("simclr", "unet"): SimCLR,
    ("mae", "resenc"): DenseMAE, ("mae", "segresnet"): DenseMAE,
    ("simclr", "resenc"): SimCLR, ("simclr", "segresnet"): SimCLR,
}  # fmt: skip


def recipe_of(pretext: str, encoder: str, **changes: object) -> Recipe:
    return make_recipe(
        {
            "encoder": encoder, "pretext": pretext, "crop": [16, 16, 16],
            "vit": {"patch": [4, 4, 4], "width": 12, "depth": 1, "heads": 2},
            "swin": {"width": 4, "depths": [1, 1], "heads": [1, 2]},
            "unet": {"width": 4, "blocks": [1, 1, 1]},
            "resenc": {"widths": [4, 8], "blocks": [1, 1]},
            "segresnet": {"width": 4, "blocks": [1, 1]},
            "mask": {"kind": "block", "ratio": 0.5, "unit": [8, 8, 4]},
            "mae": {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2,
                    "cross_attention": True, "predicted_fraction": 0.5,
                    "loss": "smooth_l1", "target": "normalised" if encoder == "vit" else "raw"},
            "simmim": {"loss": "l2"},
            "simclr": {"projection_width": 5, "hidden_width": 7, "temperature": 0.3},
        } | changes
    )  # fmt: skip


@pytest.mark.parametrize(("pretext", "encoder_name"), NETWORKS)
def test_settings_build_the_pretext_that_they_name(pretext: str, encoder_name: str) -> None:
    recipe = recipe_of(pretext, encoder_name)
    encoder = build_encoder(recipe.encoder_settings, 1, (16,) * 3)
    network: Any = build_pretext(pretext, recipe.pretext_settings, recipe.mask, encoder)
    assert type(network) is NETWORKS[pretext, encoder_name] is recipe.pretext_class
    assert network.encoder is encoder
    assert network.settings is recipe.pretext_settings
    if network.masked:
        assert network.mask is recipe.mask


def test_an_encoder_that_does_not_fit_the_pretext_is_refused() -> None:
    recipe = recipe_of("simclr", "swin")
    with pytest.raises(TypeError, match="the pretext mae cannot pre-train a Swin"):
        build_pretext("mae", MAESettings(), recipe.mask, build_encoder(recipe.encoder_settings, 1, (16, 16, 16)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_pretexts_that_fit_an_encoder_are_listed(encoder: str) -> None:
    assert fitting_pretexts(encoder) == [pretext for pretext, fits in NETWORKS if fits == encoder]


@pytest.mark.parametrize(("pretext", "encoder"), NETWORKS)
@pytest.mark.parametrize("unit", [None, [8, 8, 4]])
def test_a_description_survives_a_round_trip_through_json(pretext: str, encoder: str, unit: list[int] | None) -> None:
    recipe = recipe_of(pretext, encoder, mask={"unit": unit, "kind": "body", "body_fraction": 0.4})
    restored = json.loads(json.dumps(describe_pretext(recipe.pretext, recipe.pretext_settings, recipe.mask)))
    assert described_pretext(restored) == (pretext, recipe.pretext_settings, recipe.mask)

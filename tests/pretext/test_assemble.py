"""From settings to pretexts and back."""

from __future__ import annotations

import json

import pytest

from voxmim.networks.build import build_encoder
from voxmim.pretext.assemble import build_pretext, describe_pretext, described_pretext
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAE
from voxmim.pretext.simclr import SimCLR
from voxmim.pretext.simmim import SimMIM
from voxmim.recipe import make_recipe
from voxmim.settings import Recipe

NETWORKS = {
    ("mae", "vit"): MAE, ("mae", "unet"): DenseMAE, ("simmim", "vit"): SimMIM, ("simmim", "swin"): SimMIM,
    ("simclr", "vit"): SimCLR, ("simclr", "swin"): SimCLR, ("simclr", "unet"): SimCLR,
}  # fmt: skip


def recipe_of(pretext: str, encoder: str, **changes: object) -> Recipe:
    return make_recipe(
        {
            "encoder": encoder, "pretext": pretext, "crop": [16, 16, 16],
            "vit": {"patch": [4, 4, 4], "width": 12, "depth": 1, "heads": 2},
            "swin": {"width": 4, "depths": [1, 1], "heads": [1, 2]},
            "unet": {"width": 4, "blocks": [1, 1, 1]},
            "mask": {"kind": "block", "ratio": 0.5, "unit": [8, 8, 4]},
            "mae": {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, "cross": True, "share": 0.5,
                    "loss": "smooth_l1", "target": "normalised" if encoder == "vit" else "raw"},
            "simmim": {"loss": "l2"},
            "simclr": {"projection_width": 5, "hidden_width": 7, "temperature": 0.3},
        } | changes
    )  # fmt: skip


@pytest.mark.parametrize(("pretext", "encoder"), NETWORKS)
def test_settings_become_the_pretext_that_they_name(pretext: str, encoder: str) -> None:
    recipe = recipe_of(pretext, encoder)
    network = build_pretext(recipe.pretext_settings, recipe.mask, build_encoder(recipe.encoder_settings, 1, (16,) * 3))
    assert type(network) is NETWORKS[pretext, encoder]
    if isinstance(network, MAE):
        assert (network.ratio, network.loss, network.normalised) == (0.5, "smooth_l1", True)
        assert (network.cross, network.share, network.heads, len(network.decoder)) == (True, 0.5, 2, 1)
    if isinstance(network, DenseMAE):
        assert (network.unit, network.ratio, network.loss) == ((4, 4, 4), 0.5, "smooth_l1")
        assert network.encoder is network.network.encoder
    if isinstance(network, SimMIM):
        assert (network.unit, network.ratio, network.loss) == ((8, 8, 4), 0.5, "l2")
    if isinstance(network, SimCLR):
        assert (network.temperature, network.head[0].out_features, network.head[3].out_features) == (0.3, 7, 5)


def test_what_does_not_fit_is_refused() -> None:
    swin, mae = recipe_of("simclr", "swin"), recipe_of("mae", "vit")
    with pytest.raises(TypeError, match="MAESettings are no settings of a pretext for a Swin"):
        build_pretext(mae.mae, mae.mask, build_encoder(swin.swin, 1, (16, 16, 16)))


@pytest.mark.parametrize(("pretext", "encoder"), NETWORKS)
@pytest.mark.parametrize("unit", [None, [8, 8, 4]])
def test_a_description_survives_a_weights_file(pretext: str, encoder: str, unit: list[int] | None) -> None:
    recipe = recipe_of(pretext, encoder, mask={"unit": unit, "kind": "body", "body_share": 0.4})
    travelled = json.loads(json.dumps(describe_pretext(recipe)))
    assert described_pretext(travelled) == (pretext, recipe.pretext_settings, recipe.mask)

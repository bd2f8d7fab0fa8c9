"""From settings to networks and back, without losing any setting."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from voxmim.networks.build import build_encoder, build_segmentor, describe_encoder, described_encoder
from voxmim.networks.swin import Swin
from voxmim.networks.swin_unetr import SwinUNETR
from voxmim.networks.unet import ResidualEncoder, UNet
from voxmim.networks.unetr import UNETR
from voxmim.networks.vit import ViT
from voxmim.recipe import Recipe, make_recipe
from voxmim.settings import UNETRSettings

CROP = (16, 8, 16)
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "vit": (ViT, UNETR, {"patch": [4, 2, 4], "width": 12, "depth": 2, "heads": 2, "registers": 2, "rope": True}),
    "swin": (Swin, SwinUNETR, {"patch": [2, 2, 2], "width": 4, "depths": [1, 2], "heads": [1, 2], "window": 2}),
    "unet": (ResidualEncoder, UNet, {"width": 4, "blocks": [1, 2, 1], "max_width": 6}),
}


def recipe_of(kind: str) -> Recipe:
    return make_recipe({"encoder": kind, "pretext": "simclr", "crop": CROP, kind: KINDS[kind][2]})


@pytest.mark.parametrize("kind", KINDS)
def test_settings_build_the_network_that_they_name(kind: str) -> None:
    recipe = recipe_of(kind)
    encoder = build_encoder(recipe.encoder_settings, 2, CROP)
    segmentor = build_segmentor(encoder, UNETRSettings(feature_size=4), 3)
    assert (type(encoder), type(segmentor)) == KINDS[kind][:2]
    volume = torch.randn(1, 2, *CROP)
    assert segmentor(volume).shape == (1, 3, *CROP)
    deepest = encoder.encode(volume)
    assert deepest.shape == (1, encoder.width, *(n // s for n, s in zip(CROP, encoder.stride, strict=True)))
    settings = recipe.encoder_settings
    assert (settings.patch, settings.stride) == (encoder.patch, encoder.stride)


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_settings_of_the_decoder_are_applied(kind: str, stem: bool) -> None:
    encoder = build_encoder(recipe_of(kind).encoder_settings, 1, CROP)
    segmentor = build_segmentor(encoder, UNETRSettings(feature_size=5, stem=stem), 2)
    assert not isinstance(segmentor, UNet)
    assert (segmentor.stem is not None) == stem
    assert segmentor.out.conv.conv.in_channels == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_survives_a_round_trip_through_json(kind: str) -> None:
    recipe = recipe_of(kind)
    travelled = json.loads(json.dumps(describe_encoder(recipe.encoder, recipe.encoder_settings)))
    assert described_encoder(travelled) == (kind, recipe.encoder_settings)


def test_an_old_description_without_a_kind_is_a_vit() -> None:
    recipe = recipe_of("vit")
    old = describe_encoder(recipe.encoder, recipe.encoder_settings)
    del old["encoder"]
    assert described_encoder(json.loads(json.dumps(old))) == ("vit", recipe.encoder_settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_with_wrong_channels_or_axes_is_refused(kind: str) -> None:
    encoder = build_encoder(recipe_of(kind).encoder_settings, 2, CROP)
    for shape in ((1, 3, *CROP), (2, *CROP)):
        with pytest.raises(
            ValueError, match=r"was given, but \(B, 2, X, Y, Z\) is needed; load_encoder\(PATH, channels"
        ):
            encoder.encode(torch.zeros(shape))

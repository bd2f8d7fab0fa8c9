"""nnU-Net's encoder: shapes on anisotropic grids, initialisation, and settings in recipes and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from voxmim.networks.build import build_segmentor, describe_encoder, described_encoder
from voxmim.networks.resenc import ResEnc, ResEncSettings
from voxmim.recipe import load_recipe, make_recipe, write_recipe
from voxmim.settings import UNETRSettings

FLAT = ResEncSettings((4, 8, 8), (1, 2, 1), ((1, 1, 1), (2, 2, 1), (2, 2, 2)), ((3, 3, 1), (3, 3, 3), (3, 3, 3)))
PLAIN = ResEncSettings((4, 8), (2, 1), residual=False)


@pytest.mark.parametrize(("settings", "grid"), [(FLAT, (4, 2, 3)), (PLAIN, (8, 4, 3))])
def test_feature_maps_and_logits_have_the_sizes_given_by_the_strides(
    settings: ResEncSettings, grid: tuple[int, int, int]
) -> None:
    encoder = ResEnc(settings, 2)
    volume = torch.randn(1, 2, 16, 8, 6)
    assert encoder.encode(volume).shape == (1, 8, *grid)
    assert encoder.stride == settings.patch == encoder.patch
    segmentor = build_segmentor(encoder, UNETRSettings(), 3)
    logits = segmentor(volume)
    assert logits.shape == (1, 3, 16, 8, 6)
    logits.square().mean().backward()
    without_gradient = [name for name, parameter in segmentor.named_parameters() if parameter.grad is None]
    assert without_gradient == []


@pytest.mark.parametrize("settings", [FLAT, PLAIN])
def test_every_parameter_belongs_to_exactly_one_layer(settings: ResEncSettings) -> None:
    encoder = ResEnc(settings)
    layers = [name for layer in encoder.layers for name in layer]
    for name, _ in encoder.named_parameters():
        assert sum(name.startswith(f"{layer}.") for layer in layers) == 1
    assert all(name in encoder.state_dict() for name in encoder.input_weights)


def test_a_residual_block_is_initialised_as_its_shortcut() -> None:
    encoder = ResEnc(FLAT).eval()
    features = torch.rand(1, 8, 8, 8, 6)  # positive, so that the last activation is the identity
    block = encoder.get_submodule("stages.1.blocks.1")
    torch.testing.assert_close(block(features), features)


def test_padding_with_a_value_equals_subtracting_it_and_padding_with_zeros() -> None:
    torch.manual_seed(0)
    plain = ResEnc(FLAT).eval()
    padded = ResEnc(ResEncSettings(**{**vars(FLAT), "pad_value": 0.5})).eval()
    padded.load_state_dict(plain.state_dict())
    volume = torch.rand(1, 1, 16, 8, 6)
    torch.testing.assert_close(padded.encode(volume), plain.encode(volume - 0.5), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(padded.encode(volume), plain.encode(volume), atol=1e-3)


def test_strides_and_kernels_survive_a_round_trip_through_recipe_and_weights(tmp_path: Path) -> None:
    recipe = make_recipe({"encoder": "resenc", "resenc": vars(FLAT), "crop": [16, 8, 8]})
    assert recipe.encoder_settings == FLAT
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml").encoder_settings == FLAT
    lists = {key: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
             for key, value in vars(FLAT).items()}  # fmt: skip
    assert described_encoder({**describe_encoder("resenc", FLAT), "resenc": lists}) == ("resenc", FLAT)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"blocks": (1, 1)}, "must have one entry for each stage"),
        ({"strides": ((2, 2, 2), (2, 2, 2), (2, 2, 2))}, "must begin with a stage of full resolution"),
        ({"kernels": ((2, 3, 3), (3, 3, 3), (3, 3, 3))}, "must be odd"),
    ],
)
def test_inconsistent_settings_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ResEncSettings(**{**vars(FLAT), **changes})


def test_a_volume_of_one_bottleneck_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="one bottleneck cell"):
        ResEnc(FLAT).encode(torch.randn(1, 1, 4, 4, 2))

"""The forward pass of each pretext compiles to one graph without breaks or data-dependent shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from voxmim.networks.build import ENCODERS, build_encoder
from voxmim.pretext.build import PRETEXTS, build_pretext
from voxmim.recipe import make_recipe

SMALL: dict[str, Any] = {
    "crop": [16, 16, 8],
    "vit": {"patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 2, "rope": True},
    "swin": {"patch": [2, 2, 2], "width": 4, "depths": [1, 1], "heads": [1, 2], "window": 2},
    "unet": {"width": 4, "blocks": [1, 1, 1]},
    "resenc": {"widths": [4, 8], "blocks": [1, 1]},
    "segresnet": {"width": 4, "blocks": [1, 1]},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
}
MASKED = [
    (pretext, encoder)
    for pretext, kind in PRETEXTS.items()
    for encoder, entry in ENCODERS.items()
    if encoder in SMALL and kind.masked and kind.for_encoder(entry.encoder)
]


@pytest.mark.parametrize(("pretext", "encoder"), [*MASKED, ("simclr", "vit")])
def test_the_graph_has_no_break_and_gives_the_same_loss(pretext: str, encoder: str) -> None:
    recipe = make_recipe({**SMALL, "pretext": pretext, "encoder": encoder})
    assert recipe.crop is not None
    torch.manual_seed(0)
    network = build_pretext(
        pretext, recipe.pretext_settings, recipe.mask, build_encoder(recipe.encoder_settings, 2, recipe.crop)
    )
    image, seeds = torch.randn(4, 2, *recipe.crop), torch.arange(4)
    present = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    inputs = network.inputs(image, seeds, present)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs).loss, network(*inputs).loss)


def test_a_cross_attention_decoder_compiles() -> None:
    settings = {**SMALL["mae"], "cross_attention": True, "predicted_fraction": 0.5}
    recipe = make_recipe({**SMALL, "mae": settings})
    network = build_pretext(
        "mae", recipe.pretext_settings, recipe.mask, build_encoder(recipe.encoder_settings, 1, (16, 16, 8))
    )
    inputs = network.inputs(torch.randn(2, 1, 16, 16, 8), torch.arange(2))
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs).loss, network(*inputs).loss)

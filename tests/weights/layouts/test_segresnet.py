"""MONAI's SegResNet encoder and ours give the same outputs with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS

from voxmim.networks.segresnet import SegResNet, SegResNetSettings
from voxmim.weights.layouts import Checkpoint, Request, convert
from weights_helpers import assert_same, perturbed, random

INSTANCE = ("instance", {"affine": True})


@pytest.mark.parametrize("norm", ["batch", INSTANCE])
def test_monais_segresnet_encoder_gives_the_same_feature_maps(norm: Any) -> None:
    network = perturbed(SegResEncoder(init_filters=4, in_channels=2, blocks_down=(1, 2, 1), norm=norm))
    name, weights = convert([Checkpoint(network.state_dict())], Request(2, crop=(64, 32, 96)))
    assert (name, weights.unused, weights.crop) == ("segresnet", [], (64, 32, 96))
    encoder = SegResNet(
        SegResNetSettings(**{**weights.settings, "blocks": tuple(weights.settings["blocks"])}), 2
    ).eval()
    encoder.load_state_dict(weights.tensors)
    volume = random(1, 2, 64, 32, 96)
    assert_same(encoder.maps(volume), network(volume))


def test_kernels_are_reoriented() -> None:
    """CT-FM uses SPL: its first axis is our Z, its last is our X, reversed. Only axis swaps commute with strides."""
    network, volume = (
        perturbed(SegResEncoder(init_filters=4, blocks_down=(1, 2), norm=INSTANCE)),
        random(1, 1, 64, 32, 96),
    )
    for axes, transposed, back in (
        ("SAR", volume.permute(0, 1, 4, 3, 2), lambda t: t.permute(0, 1, 4, 3, 2)),
        ("SPL", volume.flip(2, 3).permute(0, 1, 4, 3, 2), lambda t: t.permute(0, 1, 4, 3, 2).flip(2, 3)),
    ):
        _, weights = convert([Checkpoint(network.state_dict())], Request(axes=axes))
        encoder = SegResNet(SegResNetSettings(4, (1, 2)), 1).eval()
        encoder.load_state_dict(weights.tensors)
        theirs = [back(features) for features in network(transposed)]
        ours = encoder.maps(volume)
        assert_same(ours[0], theirs[0])
        if axes == "SAR":
            assert_same(ours[1], theirs[1])
        assert not torch.allclose(ours[0], network(volume)[0], atol=0.1)
    with pytest.raises(ValueError, match="axes=XYZ are no orientation codes"):
        convert([Checkpoint(network.state_dict())], Request(axes="XYZ"))


def test_the_encoder_of_a_segresnet_is_found_and_the_rest_is_unused() -> None:
    network = SegResNetDS(init_filters=4, blocks_down=(1, 1), norm=INSTANCE)
    _, weights = convert([Checkpoint({f"model.{name}": t for name, t in network.state_dict().items()})], Request())
    assert len(weights.tensors) == len(network.encoder.state_dict())
    assert {name.split(".")[1] for name in weights.unused} == {"up_layers"}


def test_an_unsupported_segresnet_is_refused() -> None:
    flat = SegResEncoder(init_filters=4, blocks_down=(1, 1), norm=INSTANCE, anisotropic_scales=((2, 2, 1), (2, 2, 2)))
    bare = SegResEncoder(init_filters=4, blocks_down=(1, 1), norm=("instance", {"affine": False}))
    for network, match in ((flat, r"its first kernel is \(3, 3, 1\)"), (bare, "its norm has no weights")):
        with pytest.raises(ValueError, match=match):
            convert([Checkpoint(network.state_dict())], Request())

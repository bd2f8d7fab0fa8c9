"""The UNETR segmentor: shapes at every level, and gradients in every part of the encoder."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import UnetrPrUpBlock
from torch import nn

from voxmim.networks.patches import Triple, to_map
from voxmim.networks.unetr import UNETR, DirectLogits
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.settings import UNETRSettings


def crop_of(grid: Triple, patch: Triple) -> Triple:
    x, y, z = (g * p for g, p in zip(grid, patch, strict=True))
    return x, y, z


def make_unetr(patch: int | Triple, grid: Triple, stem: bool = True, depth: int = 4) -> UNETR:
    torch.manual_seed(0)
    sizes = (patch,) * 3 if isinstance(patch, int) else patch
    vit = ViT(ViTSettings(sizes, width=24, depth=depth, heads=2), 2, crop_of(grid, sizes))
    return UNETR(vit, 3, UNETRSettings(4, stem))


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize(
    ("patch", "grid"),
    [(2, (3, 4, 2)), (4, (2, 3, 4)), (8, (3, 1, 2)), (16, (1, 2, 1)), ((16, 16, 8), (1, 1, 2)), ((1, 8, 2), (4, 1, 2))],
)
def test_every_voxel_gets_logits_and_every_parameter_a_gradient(patch: int | Triple, grid: Triple, stem: bool) -> None:
    network = make_unetr(patch, grid, stem)
    volume = torch.randn(1, 2, *(p * g for p, g in zip(network.encoder.patch, grid, strict=True)))
    logits = network(volume)
    assert logits.shape == (1, 3, *volume.shape[2:])
    (logits * torch.randn_like(logits)).sum().backward()
    not_finite = [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not_finite == []
    without_gradient = [name for name, p in network.encoder.named_parameters() if not p.grad.any()]
    assert without_gradient == []


def test_direct_logits_are_a_linear_layer_on_each_token() -> None:
    """At the middle voxel of each patch of odd size, where upsampling does not interpolate."""
    torch.manual_seed(0)
    logits = DirectLogits(6, 3)
    tokens = torch.randn(2, 6, 2, 3, 4)
    output = logits(tokens, torch.zeros(2, 1, 6, 9, 12))
    weight, bias = logits.project.weight[:, :, 0, 0, 0], logits.project.bias
    expected = torch.einsum("kc,bcxyz->bkxyz", weight, tokens) + bias[:, None, None, None]
    torch.testing.assert_close(output[..., 1::3, 1::3, 1::3], expected)


def test_the_direct_path_is_added_to_the_decoders_logits() -> None:
    vit = ViT(ViTSettings((4, 4, 4), width=24, depth=2, heads=2), 1, (8, 8, 8))
    network, volume = UNETR(vit, 3, UNETRSettings(4, direct=True)), torch.randn(1, 1, 8, 8, 8)
    both = network(volume)
    torch.nn.init.zeros_(network.out.conv.conv.weight)
    torch.nn.init.zeros_(network.out.conv.conv.bias)
    alone = network(volume)
    torch.testing.assert_close(alone, network.direct(to_map(vit(volume), (2, 2, 2)), volume))
    assert not torch.allclose(both, alone)


GRID: Triple = (2, 1, 2)


@pytest.mark.parametrize(
    ("patch", "sizes"),  # of the feature map of each level along X, Y, Z, the finest first
    [
        (4, [(8, 4, 8), (4, 2, 4)]),
        (8, [(16, 8, 16), (8, 4, 8), (4, 2, 4)]),
        (16, [(32, 16, 32), (16, 8, 16), (8, 4, 8), (4, 2, 4)]),
        ((16, 16, 8), [(32, 16, 16), (16, 8, 16), (8, 4, 8), (4, 2, 4)]),
        ((4, 16, 1), [(8, 16, 2), (8, 8, 2), (8, 4, 2), (4, 2, 2)]),
    ],
)
def test_every_level_has_the_expected_shape(patch: int | Triple, sizes: list[Triple]) -> None:
    levels, network = len(sizes), make_unetr(patch, GRID)
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> object:
        return lambda _module, _inputs, output: shapes.update({name: tuple(output.shape)})

    for i, module in enumerate(network.skips):
        module.register_forward_hook(record(f"skip {i + 1}"))
    for i, module in enumerate(network.ups):
        module.register_forward_hook(record(f"up {levels - 1 - i}"))
    network.stem.register_forward_hook(record("stem"))
    network(torch.randn(1, 2, *sizes[0]))

    def at(level: int) -> tuple[int, ...]:
        return 1, 4 * 2**level, *sizes[level]

    expected = {"stem": at(0)} | {f"up {level}": at(level) for level in range(levels)}
    expected |= {f"skip {level}": at(level) for level in range(1, levels)}
    assert shapes == expected


@pytest.mark.parametrize("level", [1, 2, 3])
def test_upsampling_of_an_encoding_agrees_with_monai(level: int) -> None:
    network = make_unetr(16, (1, 2, 1))
    other = UnetrPrUpBlock(3, 24, 4 * 2**level, 3 - level, 3, 1, 2, "instance", conv_block=True, res_block=True)
    other.load_state_dict(network.skips[level - 1].state_dict())
    encoding = torch.randn(1, 24, 1, 2, 1)
    torch.testing.assert_close(network.skips[level - 1](encoding), other(encoding))


@pytest.mark.parametrize(
    ("depth", "depths"), [(12, [3, 6, 9, 12]), (24, [6, 12, 18, 24]), (5, [1, 2, 4, 5]), (1, [1, 1, 1, 1])]
)
def test_skips_start_at_evenly_spaced_blocks_as_in_the_paper(depth: int, depths: list[int]) -> None:
    network = make_unetr(16, (1, 1, 2), depth=depth)
    assert network.depths == depths
    assert network(torch.randn(1, 2, 16, 16, 32)).shape == (1, 3, 16, 16, 32)


def test_tokens_reach_the_decoder_at_their_own_position() -> None:
    """Changing one patch changes the coarsest map at that position only, on a non-cubic grid."""
    network = make_unetr(4, (2, 3, 5), stem=False).eval()
    for block in network.encoder.blocks:  # tokens are not mixed
        nn.init.zeros_(block.attention.project.weight)
    maps: list[torch.Tensor] = []
    network.ups[0].register_forward_pre_hook(lambda _module, inputs: maps.append(inputs[0]))
    volume = torch.randn(1, 2, 8, 12, 20)
    network(volume)
    volume[:, :, 4:8, 0:4, 12:16] += 1  # the token at (1, 0, 3)
    network(volume)
    changed = (maps[0] - maps[1]).abs().sum(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 0, 3]]


@pytest.mark.parametrize("stem", [True, False])
def test_without_a_stem_the_output_depends_on_the_encoder_only(stem: bool) -> None:
    network = make_unetr(4, (2, 2, 2), stem).eval()
    nn.init.zeros_(network.encoder.embed.weight)  # the encoder ignores the volume
    one, two = network(torch.randn(1, 2, 8, 8, 8)), network(torch.randn(1, 2, 8, 8, 8))
    assert torch.equal(one, two) != stem


@pytest.mark.parametrize("patch", [(4, 4, 6), (6, 6, 6), (1, 1, 1)])
def test_a_patch_that_is_not_a_power_of_two_is_refused(patch: Triple) -> None:
    with pytest.raises(ValueError, match="power of two"):
        UNETR.check(ViTSettings(patch))

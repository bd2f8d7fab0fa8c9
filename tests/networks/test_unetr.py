"""The segmentor: shapes at every level, and a way for the gradient to every part of the encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxmim.networks.patches import Triple
from voxmim.networks.unetr import UNETR
from voxmim.networks.vit import ViT


def make_unetr(patch: int, grid: Triple, stem: bool = True, depth: int = 4) -> UNETR:
    torch.manual_seed(0)
    vit = ViT(channels=2, patch=(patch,) * 3, grid=grid, width=24, depth=depth, heads=2)
    return UNETR(vit, classes=3, feature_size=4, stem=stem)


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize(("patch", "grid"), [(2, (3, 4, 2)), (4, (2, 3, 4)), (8, (3, 1, 2)), (16, (1, 2, 1))])
def test_every_voxel_gets_logits_and_every_parameter_a_gradient(patch: int, grid: Triple, stem: bool) -> None:
    network = make_unetr(patch, grid, stem)
    volume = torch.randn(1, 2, *(patch * g for g in grid))
    logits = network(volume)
    assert logits.shape == (1, 3, *volume.shape[2:])
    (logits * torch.randn_like(logits)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
    still = [name for name, p in network.encoder.named_parameters() if not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_every_level_has_its_resolution_and_channels(patch: int) -> None:
    grid, levels = (2, 1, 2), {4: 2, 8: 3, 16: 4}[patch]
    network = make_unetr(patch, grid)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        return lambda _module, _inputs, output: shapes.update({name: tuple(output.shape)})

    for i, module in enumerate(network.skips):
        module.register_forward_hook(note(f"skip {i + 1}"))
    for i, module in enumerate(network.ups):
        module.register_forward_hook(note(f"up {levels - 1 - i}"))
    network.stem.register_forward_hook(note("stem"))
    network(torch.randn(1, 2, *(patch * g for g in grid)))

    def at(level: int) -> tuple[int, ...]:
        return 1, 4 * 2**level, *(patch * g // 2**level for g in grid)

    expected = {"stem": at(0)} | {f"up {level}": at(level) for level in range(levels)}
    expected |= {f"skip {level}": at(level) for level in range(1, levels)}
    assert shapes == expected


def test_twelve_blocks_under_patches_of_16_are_read_where_the_paper_reads_them() -> None:
    assert make_unetr(16, (1, 1, 2), depth=12).depths == [3, 6, 9, 12]


def test_tokens_keep_their_place_on_the_way_to_the_decoder() -> None:
    """A change of one corner of the crop changes the coarsest map there most, on a grid that is no cube."""
    network = make_unetr(4, (2, 3, 5), stem=False).eval()
    for block in network.encoder.blocks:  # no mixing of tokens: what is changed stays where it is
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
def test_without_a_stem_the_tokens_are_the_only_way(stem: bool) -> None:
    network = make_unetr(4, (2, 2, 2), stem).eval()
    nn.init.zeros_(network.encoder.embed.weight)  # the encoder is blind
    one, two = network(torch.randn(1, 2, 8, 8, 8)), network(torch.randn(1, 2, 8, 8, 8))
    assert torch.equal(one, two) != stem


@pytest.mark.parametrize("patch", [(4, 4, 8), (6, 6, 6), (3, 3, 3)])
def test_a_patch_that_cannot_be_halved_down_is_refused(patch: Triple) -> None:
    with pytest.raises(ValueError, match="same power of two"):
        UNETR(ViT(patch=patch, grid=(2, 2, 2), width=24, depth=1, heads=2), classes=2)

"""The residual U-Net: feature maps at every level, alignment in the decoder, and transfer of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxmim.networks.patches import Triple
from voxmim.networks.unet import ResidualEncoder, UNet, UNetSettings
from voxmim.settings import UNETRSettings


def make_encoder(channels: int = 1, levels: int = 3, max_width: int = 320) -> ResidualEncoder:
    torch.manual_seed(0)
    return ResidualEncoder(UNetSettings(4, (1, 2, 1, 1)[:levels], max_width), channels)


def without_norms(network: nn.Module) -> nn.Module:
    """Remove instance norms, which spread a local change over the whole map."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, nn.Identity())
    return network


def test_with_deep_supervision_coarser_levels_give_logits_in_training() -> None:
    network = UNet(make_encoder(levels=4), 3, UNETRSettings(deep_supervision=True))
    volume = torch.randn(1, 1, 16, 8, 24)
    assert [tuple(logits.shape) for logits in network(volume)] == [(1, 3, 16, 8, 24), (1, 3, 8, 4, 12)]
    assert network.eval()(volume).shape == (1, 3, 16, 8, 24)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_each_level_halves_the_grid_and_doubles_the_channels_up_to_a_maximum(channels: int, levels: int) -> None:
    encoder = make_encoder(channels, levels, max_width=12)
    side = 2 ** (levels - 1)
    volume = torch.randn(2, channels, side, 2 * side, 3 * side)
    maps = encoder.maps(volume)
    widths = [4, 8, 12, 12][:levels]
    assert [tuple(m.shape) for m in maps] == [
        (2, width, side // 2**level, 2 * side // 2**level, 3 * side // 2**level) for level, width in enumerate(widths)
    ]
    assert encoder.stride == encoder.patch == (side, side, side)
    assert (encoder.channels, encoder.width, encoder.widths) == (channels, widths[-1], widths)
    for deepest in (encoder.encode(volume), encoder(volume)):
        assert torch.equal(deepest, maps[-1])


def test_the_default_has_five_levels_with_the_documented_blocks_and_widths() -> None:
    """Two normalised 3x3x3 convolutions per block, with learned scales."""
    with torch.device("meta"):
        encoder = ResidualEncoder(UNetSettings())
    convolutions = [[m for m in stage.modules() if isinstance(m, nn.Conv3d)] for stage in encoder.stages]
    counts = [sum(m.kernel_size == (3, 3, 3) for m in level) for level in convolutions]
    assert counts == [2, 6, 8, 8, 8]
    assert encoder.widths == [32, 64, 128, 256, 320]
    norms = [m for m in encoder.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == sum(counts) + 5  # and one in the projection shortcut of each level
    assert all(norm.affine for norm in norms)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_voxel_gets_logits_and_every_parameter_a_gradient(channels: int, levels: int) -> None:
    network = UNet(make_encoder(channels, levels), classes=5)
    volume = torch.randn(2, channels, 8, 12, 16)
    logits = network(volume)
    assert logits.shape == (2, 5, 8, 12, 16)
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("place", [(1, 20, 38), (28, 0, 3), (15, 35, 21)])
def test_a_voxel_changes_the_logits_at_its_own_position(place: Triple) -> None:
    """On a non-cubic grid, a changed voxel changes the logits there and none outside its receptive field."""
    network = without_norms(UNet(make_encoder(levels=2), classes=2)).eval()
    volume = torch.randn(1, 1, 30, 36, 40)
    changed_volume = volume.clone()
    changed_volume[0, 0, place[0], place[1], place[2]] += 100
    changed = (network(volume) - network(changed_volume)).abs().sum(1)[0] > 0
    assert changed[place]
    # Two convolutions before the deeper level, four on its cells of two voxels, the first of them with stride;
    # then a cell is upsampled to two voxels, and one convolution follows.
    assert (changed.nonzero() - torch.tensor(place)).abs().max() <= 2 + (1 + 3 * 2) + 1 + 1


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_decoder_uses_the_feature_map_of_every_level(level: int) -> None:
    network, volume = UNet(make_encoder(), classes=2).eval(), torch.randn(1, 1, 8, 8, 12)
    before = network(volume)
    maps = network.encoder.maps(volume)
    maps[level] = maps[level].flip(2)
    network.encoder.maps = lambda _volume: maps  # type: ignore[method-assign]
    assert (network(volume) - before).abs().max() > 1e-3


def test_encoder_and_decoder_are_transferred_from_reconstruction_to_segmentation() -> None:
    torch.manual_seed(0)
    pretrained, segmentor = UNet(make_encoder(2), classes=2), UNet(make_encoder(2), classes=7)
    for parameter in pretrained.parameters():
        nn.init.normal_(parameter)
    transferred = {k: v for k, v in pretrained.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    theirs = {k: v.shape for k, v in segmentor.state_dict().items() if k.startswith(("encoder.", "decoder."))}
    assert {k: v.shape for k, v in transferred.items()} == theirs
    missing, unexpected = segmentor.load_state_dict(transferred, strict=False)
    assert unexpected == []
    assert all(name.startswith("out.") for name in missing)

    last: list[torch.Tensor] = []
    volume = torch.randn(1, 2, 8, 4, 12)
    for network in (pretrained, segmentor):
        network.out.register_forward_pre_hook(lambda _module, inputs: last.append(inputs[0]))
        network(volume)
    assert torch.equal(last[0], last[1])


@pytest.mark.parametrize("shape", [(6, 8, 8), (8, 9, 8), (8, 8, 2)])
def test_a_volume_that_cannot_be_halved_at_every_level_is_refused(shape: Triple) -> None:
    with pytest.raises(ValueError, match=r"whole number of patches of \(4, 4, 4\)"):
        UNet(make_encoder(), classes=2)(torch.randn(1, 1, *shape))


def test_a_volume_of_a_single_bottleneck_cell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) voxels has one bottleneck cell; at least two"):
        make_encoder()(torch.randn(2, 1, 4, 4, 4))
    assert make_encoder()(torch.randn(2, 1, 4, 4, 8)).shape == (2, 16, 1, 1, 2)


@pytest.mark.parametrize("blocks", [(1, 0, 1), ()])
def test_a_level_without_blocks_and_an_encoder_without_levels_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        UNetSettings(blocks=blocks)

"""The convolutional blocks agree with the modules of torch and MONAI, in another memory layout."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import UnetResBlock
from torch import nn

from voxmim.networks.blocks import InstanceNorm, Pool, ResidualBlock, UpBlock, Upsample, channels_last
from voxmim.settings import Triple


@pytest.mark.parametrize("batch", [1, 3])
def test_the_instance_norm_agrees_with_torch(batch: int) -> None:
    volume, ours, theirs = (
        torch.randn(batch, 4, 5, 6, 7),
        InstanceNorm(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
    )
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.arange(4.0)), norm.bias.copy_(torch.arange(4.0) - 2)
    torch.testing.assert_close(ours(volume), theirs(volume), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2)])
def test_upsampling_agrees_with_a_transposed_convolution(stride: Triple, bias: bool) -> None:
    layer, features = Upsample(6, 4, stride, bias), torch.randn(2, 6, 3, 4, 5)
    expected = nn.functional.conv_transpose3d(features, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(features), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 3)])
def test_pooling_and_its_gradient_agree_with_average_pooling(stride: Triple) -> None:
    volume = channels_last(torch.randn(2, 3, 4, 4, 6)).requires_grad_()
    ours, theirs = Pool(stride)(volume), nn.functional.avg_pool3d(volume, stride, stride)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(theirs)
    (own,) = torch.autograd.grad((ours * weight).sum(), volume)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), volume)
    torch.testing.assert_close(own, expected)


def test_pooling_keeps_bfloat16_and_the_memory_layout() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        pooled = Pool((2, 2, 2))(channels_last(torch.randn(1, 3, 4, 4, 4)).bfloat16())
    assert pooled.dtype == torch.bfloat16
    assert pooled.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("incoming", "outgoing", "stride"), [(4, 4, 1), (3, 4, 1), (4, 4, 2)])
@pytest.mark.parametrize("affine", [False, True])
def test_the_residual_block_agrees_with_monai(incoming: int, outgoing: int, stride: int, affine: bool) -> None:
    ours = ResidualBlock(incoming, outgoing, stride, affine)
    theirs = UnetResBlock(3, incoming, outgoing, 3, stride, ("instance", {"affine": affine}))
    theirs.load_state_dict(ours.state_dict())
    volume = torch.randn(2, incoming, 4, 6, 8)
    torch.testing.assert_close(ours(volume), theirs(volume))


def test_an_odd_feature_map_is_joined_at_the_right_position() -> None:
    up = UpBlock(1, 1)
    up.conv_block = nn.Identity()  # returns the concatenated maps
    nn.init.ones_(up.transp_conv.conv.weight)
    coarse, finer = torch.randn(1, 1, 2, 3, 2), torch.randn(1, 1, 3, 5, 4)
    raised, joined = up(coarse, finer).split(1, dim=1)
    assert torch.equal(joined, finer)
    for x, y, z in torch.cartesian_prod(torch.arange(3), torch.arange(5), torch.arange(4)).tolist():
        assert raised[0, 0, x, y, z] == coarse[0, 0, x // 2, y // 2, z // 2]

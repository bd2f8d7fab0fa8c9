"""The convolutional blocks of UNETR (arXiv 2103.10504), Swin UNETR and the residual U-Net.

Tensors have MONAI's names, so that its weights fit. On a CPU, volumes have their channels last in memory, because
bfloat16 convolutions are several times as fast in that layout.
"""

from collections import OrderedDict
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.settings import Triple

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.7


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation that keeps the channels_last layout.

    torch's own is computed as batch normalisation of a volume of B x C channels, which has no such layout.
    """

    def forward(self, volume: Tensor) -> Tensor:
        if volume.device.type != "cpu" or _is_exporting():  # for any batch size
            return super().forward(volume)
        scale, shift = self.weight, self.bias
        samples = [functional.batch_norm(one, None, None, scale, shift, True, eps=self.eps) for one in volume.split(1)]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


class Upsample(nn.ConvTranspose3d):
    """A transposed convolution whose stride is its kernel.

    On a CPU it is computed as a linear layer on the cells, since the kernels do not overlap.
    """

    def __init__(self, incoming: int, outgoing: int, stride: Triple, bias: bool = False) -> None:
        super().__init__(incoming, outgoing, stride, stride, bias=bias)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """(B, incoming, X, Y, Z) to (B, outgoing, X, Y, Z times the stride)."""
        if features.device.type != "cpu":
            return super().forward(features)
        (b, c, x, y, z), (_, out, i, j, k) = features.shape, self.weight.shape
        kernel = self.weight.permute(2, 3, 4, 1, 0).reshape(-1, c)
        bias = None if self.bias is None else self.bias.repeat(i * j * k)
        cells = functional.linear(features.permute(0, 2, 3, 4, 1), kernel, bias).view(b, x, y, z, i, j, k, out)
        joined = cells.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, x * i, y * j, z * k, out)
        return joined.permute(0, 4, 1, 2, 3)


class Pool(nn.Module):
    """Average pooling whose stride is its kernel, in the volume's own precision.

    On a CPU, autocast would make it float32, and torch's gradient is slow in channels_last.
    """

    def __init__(self, stride: Triple) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, X, Y, Z over the stride)."""
        if features.device.type != "cpu" or _is_exporting():
            return functional.avg_pool3d(features, self.stride, self.stride)
        return _Mean.apply(features, self.stride)


class _Mean(torch.autograd.Function):
    """The mean of each box of voxels, by adding slices."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, stride: Triple) -> Tensor:
        ctx.stride, total = stride, features.permute(0, 2, 3, 4, 1)
        for axis, size in enumerate(stride, start=1):
            before = (slice(None),) * axis
            total = reduce(torch.add, [total[(*before, slice(at, None, size))] for at in range(size)])
        return (total / prod(stride)).permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        i, j, k = ctx.stride
        gradient = (gradients[0] / prod(ctx.stride)).permute(0, 2, 3, 4, 1)
        b, x, y, z, c = gradient.shape
        boxes = gradient.reshape(b, x, 1, y, 1, z, 1, c).expand(b, x, i, y, j, z, k, c)
        return boxes.reshape(b, x * i, y * j, z * k, c).permute(0, 4, 1, 2, 3), None


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with instance norm and leaky ReLU; the shortcut is 1x1x1 if shapes differ."""

    def __init__(self, incoming: int, outgoing: int, stride: int = 1, affine: bool = False) -> None:
        super().__init__()
        self.conv1 = convolution(incoming, outgoing, 3, stride)
        self.conv2 = convolution(outgoing, outgoing, 3)
        self.norm1, self.norm2 = InstanceNorm(outgoing, affine=affine), InstanceNorm(outgoing, affine=affine)
        self.projects = incoming != outgoing or stride != 1
        if self.projects:
            self.conv3 = convolution(incoming, outgoing, 1, stride)
            self.norm3 = InstanceNorm(outgoing, affine=affine)

    def forward(self, features: Tensor) -> Tensor:
        """(B, incoming, X, Y, Z) to (B, outgoing, X, Y, Z over the stride)."""
        shortcut = self.norm3(self.conv3(features)) if self.projects else features
        return leaky_relu(self.norm2(self.conv2(leaky_relu(self.norm1(self.conv1(features))))) + shortcut)


class UpBlock(nn.Module):
    """Upsamples a map, concatenates a finer map, and applies a residual block.

    The finer map may have an odd grid: the padding of patch merging is cropped.
    """

    def __init__(self, incoming: int, outgoing: int, factor: Triple = (2, 2, 2)) -> None:
        super().__init__()
        self.transp_conv = named(conv=Upsample(incoming, outgoing, factor))
        self.conv_block = ResidualBlock(2 * outgoing, outgoing)

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        """(B, incoming, x, y, z) and (B, outgoing, X, Y, Z) to the latter's shape."""
        x, y, z = finer.shape[2:]
        return self.conv_block(torch.cat([self.transp_conv(coarse)[..., :x, :y, :z], finer], dim=1))


def upsample_block(incoming: int, outgoing: int, factor: Triple) -> nn.Sequential:
    """Upsamples a map without a skip connection, and applies a residual block."""
    return nn.Sequential(Upsample(incoming, outgoing, factor, bias=True), residual_block(outgoing, outgoing))


def residual_block(incoming: int, outgoing: int) -> nn.Module:
    """A residual block with UNETR's name for it."""
    return named(layer=ResidualBlock(incoming, outgoing))


def convolution(incoming: int, outgoing: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Module:
    """A convolution with padding: the grid changes by the stride only."""
    return named(conv=nn.Conv3d(incoming, outgoing, kernel, stride, kernel // 2, bias=bias))


def output_block(incoming: int, classes: int) -> nn.Module:
    """The last layer, from features to logits of each voxel."""
    return named(conv=convolution(incoming, classes, 1, bias=True))


def leaky_relu(features: Tensor) -> Tensor:
    """The activation of these blocks, in place."""
    return functional.leaky_relu(features, 0.01, inplace=True)


def channels_last(volume: Tensor) -> Tensor:
    """The same volume (B, C, X, Y, Z), on a CPU with its channels last in memory."""
    return volume.contiguous(memory_format=torch.channels_last_3d) if volume.device.type == "cpu" else volume


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence of named modules."""
    return nn.Sequential(OrderedDict(modules))

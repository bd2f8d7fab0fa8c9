"""A residual U-Net like nnU-Net's (arXiv 1809.10486, 2404.09556): encoder and segmentor.

Each level of the encoder halves the resolution and doubles the channels, up to a maximum. The decoder is light: one
transposed and one plain convolution per level.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from voxmim.networks.base import Encoder, Segmentor
from voxmim.networks.blocks import (
    InstanceNorm,
    ResidualBlock,
    Upsample,
    channels_last,
    convolution,
    leaky_relu,
    named,
    output_block,
)
from voxmim.networks.patches import grid_of
from voxmim.settings import Triple, UNETRSettings, check_range


class ConvSettings:
    """The base class of convolutional encoders' settings; by default each stage but the first halves the grid."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    min_cells: ClassVar[int] = 2  # instance normalisation makes a single cell zero

    blocks: tuple[int, ...]

    @property
    def stage_strides(self) -> list[Triple]:
        """The factors by which each stage divides the grid along X, Y, Z."""
        return [(1, 1, 1), *((2, 2, 2),) * (len(self.blocks) - 1)]

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the bottleneck features."""
        x, y, z = (prod(stride[axis] for stride in self.stage_strides) for axis in range(3))
        return x, y, z

    @property
    def patch(self) -> Triple:
        """A cell of the bottleneck features, the default mask unit."""
        return self.stride


@dataclass
class UNetSettings(ConvSettings):
    """A residual U-Net; its MAE trains the decoder too.

    Attributes:
        width: channels at full resolution, doubled at each level below.
        blocks: residual blocks of each level, the finest first; every level halves the resolution.
        max_width: maximum channels of a level.
    """

    width: int = 32
    blocks: tuple[int, ...] = (1, 3, 4, 4, 4)
    max_width: int = 320

    def __post_init__(self) -> None:
        check_range(self, "width blocks max_width", 1)

    def summary(self) -> str:
        """Such as ``residual U-Net of width 32, blocks 1-3-4-4-4``."""
        return f"residual U-Net of width {self.width}, blocks {'-'.join(map(str, self.blocks))}"


class ConvEncoder(Encoder):
    """A convolutional encoder whose stages return coarser and coarser maps, for a U-Net's decoder.

    Attributes:
        widths: channels of each stage's map, the finest first.
        strides: factors by which each stage divides the grid along X, Y, Z; 1 for the first stage.
        stages: the modules; each takes the map of the one before.
    """

    stages: nn.ModuleList

    def __init__(self, settings: ConvSettings, widths: list[int], channels: int) -> None:
        super().__init__()
        self.widths, self.width, self.strides, self.channels = widths, widths[-1], settings.stage_strides, channels
        self.patch = self.stride = settings.stride

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """(B, C, X, Y, Z) to the bottleneck features (B, width, X, Y, Z over the stride); raises as `maps` does."""
        assert hidden is None, "convolutions take no mask token"
        return self.maps(volume)[-1]

    def maps(self, volume: Tensor) -> list[Tensor]:
        """The map of each stage, (B, widths[stage], *grid), the finest first.

        Raises:
            ValueError: the volume (B, C, X, Y, Z) has other channels, is not a multiple of the stride, or has a single
                bottleneck cell.
        """
        self.check(volume)
        shape = tuple(volume.shape[2:])
        if grid_of(shape, self.stride) == (1, 1, 1):
            raise ValueError(f"a volume of {shape} voxels has one bottleneck cell; at least two are needed")
        return self._stages(channels_last(volume))

    def _stages(self, features: Tensor) -> list[Tensor]:
        return [features := stage(features) for stage in self.stages]


class ResidualEncoder(ConvEncoder):
    """The encoder of a residual U-Net."""

    input_weights = ("stages.0.0.conv1.conv.weight", "stages.0.0.conv3.conv.weight")

    def __init__(self, settings: UNetSettings, channels: int = 1, crop: Triple | None = None) -> None:
        widths = [min(settings.width * 2**level, settings.max_width) for level in range(len(settings.blocks))]
        super().__init__(settings, widths, channels)
        self.stages = nn.ModuleList()
        incoming = channels
        for level, (outgoing, count) in enumerate(zip(self.widths, settings.blocks, strict=True)):
            stage = [ResidualBlock(incoming, outgoing, 1 if level == 0 else 2, affine=True)]
            stage += [ResidualBlock(outgoing, outgoing, affine=True) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))
            incoming = outgoing

    @property
    def layers(self) -> list[tuple[str, ...]]:
        blocks = ((level, block) for level, stage in enumerate(self.stages) for block, _ in enumerate(stage.children()))
        return [(f"stages.{level}.{block}",) for level, block in blocks]


class UNet(Segmentor):
    """The encoder and a decoder that predicts logits, or intensities, of every voxel.

    The decoder without its last convolution, `out`, does not depend on what is predicted, so a fine-tuning can load it
    from a pre-training.

    With deep supervision, all levels of the decoder but the coarsest predict in training mode.
    """

    carries_decoder = True
    encoder: ConvEncoder

    def __init__(self, encoder: ConvEncoder, classes: int, settings: UNETRSettings | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        rising = encoder.widths[::-1]
        ups = zip(pairwise(rising), reversed(encoder.strides[1:]), strict=True)
        self.decoder = nn.ModuleList(_Up(low, high, stride) for (low, high), stride in ups)
        self.out = output_block(rising[-1], classes)
        deep = rising[2:-1] if settings is not None and settings.deep_supervision else []
        self.coarse = nn.ModuleList(nn.Conv3d(width, classes, 1) for width in deep)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, volume: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z); raises as `ConvEncoder.maps` does.

        With deep supervision in training mode, also those of coarser levels, the finest first.
        """
        *skips, features = self.encoder.maps(volume)
        levels = []
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            features = up(features, skip)
            levels.append(features)
        if not (self.training and self.coarse):
            return self.out(features)
        coarse = [head(level) for head, level in zip(self.coarse, levels[1:-1], strict=True)]
        return self.out(features), *reversed(coarse)


class _Up(nn.Module):
    """Upsamples by a stage's stride, concatenates the encoder's map, and convolves."""

    def __init__(self, incoming: int, outgoing: int, stride: Triple) -> None:
        super().__init__()
        self.up = Upsample(incoming, outgoing, stride)
        self.block = convolution(2 * outgoing, outgoing, 3)
        self.block.add_module("adn", named(N=InstanceNorm(outgoing, affine=True)))

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return leaky_relu(self.block(torch.cat([self.up(features), skip], dim=1)))

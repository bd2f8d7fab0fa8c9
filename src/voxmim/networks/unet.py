"""A residual U-Net of nnU-Net's kind (arXiv 1809.10486, the residual encoder of 2404.09556), in two parts.

Each level of the encoder halves the resolution and doubles the channels, up to a most. The decoder is light: one
transposed and one plain convolution a level. The blocks are MONAI's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks import Convolution, UnetOutBlock, UnetResBlock
from torch import Tensor, nn

from voxmim.networks.patches import Triple, grid_of

_NORM = ("instance", {"affine": True})
_ACTIVATION = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class ResidualEncoder(nn.Module):
    """The encoder.

    Args:
        channels: of the scans.
        width: channels at full resolution; doubled at each level below.
        blocks: residual blocks of each level, the finest first; each level has half the resolution of the one before.
        most_width: no level has more channels.

    Attributes:
        channels: of the scans.
        width: channels of the deepest map.
        widths: channels of each level's map, the finest first.
        stride: voxels of one cell of the deepest map along X, Y, Z.
        patch: the smallest mask unit, one cell of the deepest map: a smaller one would leave no level at which a
            hidden place is wholly hidden.

    Raises:
        ValueError: there is no level, or one without a block.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        blocks: tuple[int, ...] = (1, 3, 4, 4, 4),
        most_width: int = 320,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1:
            raise ValueError(f"there must be at least one level, and a block on each, not {blocks}")
        side = 2 ** (len(blocks) - 1)
        self.stride: Triple = (side, side, side)
        self.channels, self.patch = channels, self.stride
        self.widths = [min(width * 2**level, most_width) for level in range(len(blocks))]
        self.width = self.widths[-1]
        self.stages = nn.ModuleList()
        incoming = channels
        for level, (outgoing, count) in enumerate(zip(self.widths, blocks, strict=True)):
            stage = [_residual(incoming, outgoing, stride=1 if level == 0 else 2)]
            stage += [_residual(outgoing, outgoing, stride=1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))
            incoming = outgoing

    @property
    def layers(self) -> list[tuple[str, ...]]:
        """The names of the modules of each layer, from input to output: residual blocks."""
        return [
            (f"stages.{level}.{block}",)
            for level, stage in enumerate(self.stages)
            for block, _ in enumerate(stage.children())
        ]

    def forward(self, volume: Tensor) -> Tensor:
        return self.encode(volume)

    def encode(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the deepest map (B, width, X, Y, Z over the stride); raises as `maps` does."""
        return self.maps(volume)[-1]

    def maps(self, volume: Tensor) -> list[Tensor]:
        """The map of each level, (B, widths[level], X, Y, Z over 2**level), the finest first.

        Raises:
            ValueError: the volume (B, C, X, Y, Z) is no multiple of the stride, or a single cell of the deepest map.
        """
        shape = tuple(volume.shape[2:])
        if grid_of(shape, self.stride) == (1, 1, 1):
            # Instance norm takes the mean away: of a single cell nothing would be left, and torch refuses it.
            raise ValueError(f"a volume of {shape} voxels is one cell of the deepest map; at least two are needed")
        maps, features = [], volume
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class UNet(nn.Module):
    """The encoder and a decoder that gives every voxel its logits, or its channels.

    All of the decoder but the last convolution, `out`, is the same whatever is predicted, so that it can be carried
    from pre-training to fine-tuning beside the encoder.

    Args:
        encoder: gives the maps of all levels.
        classes: labels with background, or channels where the scan itself is to be predicted.
    """

    def __init__(self, encoder: ResidualEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        rising = encoder.widths[::-1]
        self.decoder = nn.ModuleList(_Up(low, high) for low, high in pairwise(rising))
        self.out = UnetOutBlock(spatial_dims=3, in_channels=rising[-1], out_channels=classes)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z); raises as `ResidualEncoder.maps` does."""
        *skips, features = self.encoder.maps(volume)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            features = up(features, skip)
        return self.out(features)


class _Up(nn.Module):
    """Doubles the resolution and joins the encoder's map."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(incoming, outgoing, kernel_size=2, stride=2, bias=False)
        self.block = Convolution(
            3, 2 * outgoing, outgoing, kernel_size=3, norm=_NORM, act=_ACTIVATION, adn_ordering="NA", bias=False
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.up(features), skip], dim=1))


def _residual(incoming: int, outgoing: int, stride: int) -> nn.Module:
    common: dict[str, Any] = {"spatial_dims": 3, "kernel_size": 3, "norm_name": _NORM, "act_name": _ACTIVATION}
    return UnetResBlock(in_channels=incoming, out_channels=outgoing, stride=stride, **common)

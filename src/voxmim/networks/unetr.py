"""UNETR (arXiv 2103.10504): a transformer encoder, read at several depths by a convolutional decoder.

The decoder's blocks are MONAI's; their number follows from the patch: a patch of 16 has four halvings, 8 three,
4 two. The last encoding is the coarsest level; each finer level takes the encoding of an earlier depth, enlarged
by transposed convolutions, and the finest takes the image itself.
"""

from __future__ import annotations

import math
from typing import Any

from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn

from voxmim.networks.patches import Triple, grid_of
from voxmim.networks.vit import ViT


class UNETR(nn.Module):
    """The segmentor.

    Args:
        encoder: a ViT whose patch is the same power of two along each axis.
        classes: labels with background.
        feature_size: channels at full resolution, doubled at each level below.
        stem: feed the image itself into the full-resolution level, as the paper does; without it the encoder's
            tokens are the only way from the image to the labels.
    """

    def __init__(self, encoder: ViT, classes: int, feature_size: int = 16, stem: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        levels = int(math.log2(encoder.patch[0]))
        if encoder.patch != (2**levels,) * 3:
            raise ValueError(f"UNETR needs a patch that is the same power of two along each axis, not {encoder.patch}")
        self.depths = [max(1, round(encoder.depth * (level + 1) / levels)) for level in range(levels)]
        self.norms = nn.ModuleList(nn.LayerNorm(encoder.width) for _ in self.depths[:-1])
        common: dict[str, Any] = {"spatial_dims": 3, "norm_name": "instance", "res_block": True}
        self.stem = (
            UnetrBasicBlock(in_channels=encoder.channels, out_channels=feature_size, kernel_size=3, stride=1, **common)
            if stem
            else None
        )
        self.skips = nn.ModuleList(
            UnetrPrUpBlock(
                in_channels=encoder.width,
                out_channels=feature_size * 2**level,
                num_layer=levels - level - 1,
                kernel_size=3,
                stride=1,
                upsample_kernel_size=2,
                conv_block=True,
                **common,
            )
            for level in range(1, levels)
        )
        self.ups = nn.ModuleList()
        for level in reversed(range(levels)):
            incoming = encoder.width if level == levels - 1 else feature_size * 2 ** (level + 1)
            if level == 0 and not stem:
                self.ups.append(_PlainUp(incoming, feature_size))
                continue
            self.ups.append(
                UnetrUpBlock(
                    in_channels=incoming,
                    out_channels=feature_size * 2**level,
                    kernel_size=3,
                    upsample_kernel_size=2,
                    **common,
                )
            )
        self.out = UnetOutBlock(spatial_dims=3, in_channels=feature_size, out_channels=classes)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        grid = grid_of(tuple(volume.shape), self.encoder.patch)
        states = self.encoder.hidden_states(volume, self.depths)
        states = [norm(state) for norm, state in zip(self.norms, states[:-1], strict=True)] + states[-1:]
        maps = [_to_map(state, grid) for state in states]
        features = maps[-1]
        for up, level in zip(self.ups, reversed(range(len(maps))), strict=True):
            if level > 0:
                features = up(features, self.skips[level - 1](maps[level - 1]))
            elif self.stem is not None:
                features = up(features, self.stem(volume))
            else:
                features = up(features)
        return self.out(features)


class _PlainUp(nn.Module):
    """Doubles the resolution where there is no image path to join."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(incoming, outgoing, 2, 2)
        self.block = UnetrBasicBlock(3, outgoing, outgoing, 3, 1, norm_name="instance", res_block=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.block(self.up(features))


def _to_map(tokens: Tensor, grid: Triple) -> Tensor:
    """(B, N, width) tokens to a feature map (B, width, *grid)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)

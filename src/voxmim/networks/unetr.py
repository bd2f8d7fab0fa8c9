"""UNETR (arXiv 2103.10504): a transformer encoder, and a convolutional decoder that takes its states at several depths.

The number of the decoder's blocks follows from the patch: four for a patch of 16, three for 8, two for 4. The last
state is the coarsest level. Each finer level takes the state of an earlier depth, upsampled by transposed convolutions,
and the finest takes the image. If a patch is shorter along one axis, that axis reaches the scan's resolution first and
is not upsampled further.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.base import Segmentor
from voxmim.networks.blocks import (
    ResidualBlock,
    UpBlock,
    Upsample,
    channels_last,
    named,
    output_block,
    residual_block,
    upsample_block,
)
from voxmim.networks.patches import grid_of, to_map
from voxmim.networks.vit import ViT
from voxmim.settings import EncoderSettings, Triple, UNETRSettings


class UNETR(Segmentor):
    """The segmentor on a ViT, whose patch must be a power of two along each axis, and not a single voxel."""

    encoder: ViT

    @classmethod
    def check(cls, settings: EncoderSettings) -> None:
        upsampling_factors(settings.patch)

    def __init__(self, encoder: ViT, classes: int, settings: UNETRSettings) -> None:
        super().__init__()
        self.encoder, feature_size, stem = encoder, settings.feature_size, settings.stem
        factors = upsampling_factors(encoder.patch)
        levels = len(factors)
        self.depths = [max(1, round(encoder.depth * (level + 1) / levels)) for level in range(levels)]
        self.norms = nn.ModuleList(nn.LayerNorm(encoder.width) for _ in self.depths[:-1])
        self.stem = residual_block(encoder.channels, feature_size) if stem else None
        self.skips = nn.ModuleList(
            _enlarge(encoder.width, feature_size * 2**level, factors[: levels - level]) for level in range(1, levels)
        )
        channels = [encoder.width, *(feature_size * 2**level for level in reversed(range(levels)))]
        self.ups = nn.ModuleList(
            UpBlock(incoming, outgoing, factor)
            if stem or outgoing > feature_size
            else upsample_block(incoming, outgoing, factor)
            for (incoming, outgoing), factor in zip(pairwise(channels), factors, strict=True)
        )
        self.out = output_block(feature_size, classes)
        self.direct = DirectLogits(encoder.width, classes) if settings.direct else None
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        grid = grid_of(tuple(volume.shape), self.encoder.patch)
        states = self.encoder.hidden_states(volume, self.depths)
        states = [norm(state) for norm, state in zip(self.norms, states[:-1], strict=True)] + states[-1:]
        maps = [to_map(state, grid) for state in states]
        features = maps[-1]
        for up, level in zip(self.ups, reversed(range(len(maps))), strict=True):
            if level > 0:
                features = up(features, self.skips[level - 1](maps[level - 1]))
            elif self.stem is not None:
                features = up(features, self.stem(channels_last(volume)))
            else:
                features = up(features)
        logits = self.out(features)
        return logits if self.direct is None else logits + self.direct(maps[-1], volume)


class DirectLogits(nn.Module):
    """Logits directly from the bottleneck features: a linear layer and trilinear interpolation.

    A new decoder passes on little of a pre-trained encoder's features until it is trained; this path bypasses it.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Conv3d(width, classes, 1)

    def forward(self, bottleneck: Tensor, volume: Tensor) -> Tensor:
        """Features (B, width, *grid) of a volume (B, C, X, Y, Z) to logits (B, classes, X, Y, Z)."""
        return functional.interpolate(self.project(bottleneck).float(), size=volume.shape[2:], mode="trilinear")


def upsampling_factors(patch: Triple) -> list[Triple]:
    """The factors along X, Y, Z of each upsampling from patches to voxels, coarsest first.

    Raises:
        ValueError: the patch is not a power of two along each axis, or is a single voxel.
    """
    if any(size < 1 or size & (size - 1) for size in patch) or max(patch) == 1:
        raise ValueError(
            f"UNETR needs a patch that is a power of two along each axis, and not a single voxel; it is {patch}"
        )
    factors: list[Triple] = []
    while max(patch) > 1:
        x, y, z = (min(size, 2) for size in patch)
        factors.append((x, y, z))
        patch = patch[0] // x, patch[1] // y, patch[2] // z
    return factors


def _enlarge(incoming: int, outgoing: int, factors: list[Triple]) -> nn.Module:
    """Upsamples a map step by step, with the names of MONAI's UnetrPrUpBlock; each step has its own factors."""
    first, *others = factors
    blocks = (
        nn.Sequential(named(conv=Upsample(outgoing, outgoing, factor)), ResidualBlock(outgoing, outgoing))
        for factor in others
    )
    return named(transp_conv_init=named(conv=Upsample(incoming, outgoing, first)), blocks=nn.Sequential(*blocks))

"""Swin UNETR (arXiv 2201.01266): a Swin encoder whose maps are joined, coarse to fine, by a convolutional decoder.

The blocks are MONAI's, and so is their order: with patches of 2 this is MONAI's own SwinUNETR. Patches of 4 add one
doubling between the patches' map and the voxels.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from monai.networks.blocks import UnetOutBlock, UnetrUpBlock
from torch import Tensor, nn

from voxmim.networks.swin import Swin
from voxmim.networks.unetr import DirectLogits, plain_up, residual_block


class SwinUNETR(nn.Module):
    """The segmentor.

    Args:
        encoder: a Swin.
        classes: labels with background.
        feature_size: channels at the patches' resolution and finer, doubled at each level below, until the encoder's
            two deepest maps are reached, which keep their channels; None takes the encoder's embed_width.
        stem: feed the image itself into the full-resolution level, as the paper does; without it the encoder's
            maps are the only way from the image to the labels.
        direct: add the logits of one linear layer on the deepest map (see `DirectLogits`); the paper has none.
    """

    def __init__(
        self, encoder: Swin, classes: int, feature_size: int | None = None, stem: bool = True, direct: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        size = encoder.embed_width if feature_size is None else feature_size
        *fine, second, deepest = encoder.widths
        sizes = [size * 2**level for level in range(len(fine))]
        self.bottom = residual_block(deepest, deepest)
        self.skips = nn.ModuleList(residual_block(*pair) for pair in zip(fine, sizes, strict=True))
        self.skips.append(nn.Identity())  # the second deepest map is joined as it is
        self.ups = nn.ModuleList(_join_up(*pair) for pair in pairwise([deepest, second, *reversed(sizes)]))
        coarse = sizes[0] if sizes else second  # an encoder of two maps alone ends with its own channels
        doublings = [(coarse if step == 0 else size, size) for step in range(int(math.log2(encoder.patch[0])))]
        self.between = nn.Sequential(*(plain_up(*pair, (2, 2, 2)) for pair in doublings[:-1]))
        self.stem = residual_block(encoder.channels, size) if stem else None
        self.last = _join_up(*doublings[-1]) if stem else plain_up(*doublings[-1], (2, 2, 2))
        self.out = UnetOutBlock(spatial_dims=3, in_channels=size, out_channels=classes)
        self.direct = DirectLogits(deepest, classes) if direct else None

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z).

        Raises:
            ValueError: the volume is not a whole number of patches, or a single cell of the deepest map, of which
                instance normalisation would leave nothing.
        """
        *maps, deepest = self.encoder.maps(volume)
        if deepest[0, 0].numel() == 1:
            size, stride = tuple(volume.shape[2:]), self.encoder.stride
            raise ValueError(f"a volume of {size} voxels is too small: along one axis at least it must exceed {stride}")
        features = self.bottom(deepest)
        for up, skip, finer in zip(self.ups, reversed(self.skips), reversed(maps), strict=True):
            features = up(features, skip(finer))
        features = self.between(features)
        features = self.last(features) if self.stem is None else self.last(features, self.stem(volume))
        logits = self.out(features)
        return logits if self.direct is None else logits + self.direct(deepest, volume)


class _JoinUp(UnetrUpBlock):
    """Doubles the resolution and joins the finer map; where its grid is odd, what merging had padded is cut again."""

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        x, y, z = finer.shape[2:]
        return self.conv_block(torch.cat([self.transp_conv(coarse)[..., :x, :y, :z], finer], dim=1))


def _join_up(incoming: int, outgoing: int) -> _JoinUp:
    return _JoinUp(
        spatial_dims=3,
        in_channels=incoming,
        out_channels=outgoing,
        kernel_size=3,
        upsample_kernel_size=2,
        norm_name="instance",
        res_block=True,
    )

"""Swin UNETR (arXiv 2201.01266): a Swin encoder and a convolutional decoder with skip connections.

The order of the blocks is MONAI's: with patches of 2 this is MONAI's SwinUNETR. Patches of 4 add one upsampling block
between the patches' map and the voxels.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from voxmim.networks.base import Segmentor
from voxmim.networks.blocks import UpBlock, channels_last, output_block, residual_block, upsample_block
from voxmim.networks.swin import Swin
from voxmim.networks.unetr import DirectLogits
from voxmim.settings import UNETRSettings


class SwinUNETR(Segmentor):
    """The segmentor on a Swin.

    ``feature_size`` is the number of channels at the patches' resolution and finer. It doubles at each coarser level;
    the encoder's two coarsest feature maps keep their channels.
    """

    encoder: Swin

    def __init__(self, encoder: Swin, classes: int, settings: UNETRSettings) -> None:
        super().__init__()
        self.encoder, size, stem = encoder, settings.feature_size, settings.stem
        *fine, second, deepest = encoder.widths
        sizes = [size * 2**level for level in range(len(fine))]
        self.bottom = residual_block(deepest, deepest)
        self.skips = nn.ModuleList(residual_block(*pair) for pair in zip(fine, sizes, strict=True))
        self.skips.append(nn.Identity())  # the second coarsest feature map is concatenated as it is
        self.ups = nn.ModuleList(UpBlock(*pair) for pair in pairwise([deepest, second, *reversed(sizes)]))
        coarse = sizes[0] if sizes else second  # an encoder with two maps keeps its channels
        doublings = [(coarse if step == 0 else size, size) for step in range(int(math.log2(encoder.patch[0])))]
        self.between = nn.Sequential(*(upsample_block(*pair, (2, 2, 2)) for pair in doublings[:-1]))
        self.stem = residual_block(encoder.channels, size) if stem else None
        self.last = UpBlock(*doublings[-1]) if stem else upsample_block(*doublings[-1], (2, 2, 2))
        self.out = output_block(size, classes)
        self.direct = DirectLogits(deepest, classes) if settings.direct else None
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes, X, Y, Z); raises ValueError if it does not fit."""
        *maps, deepest = self.encoder.maps(volume)
        if deepest[0, 0].numel() == 1:  # instance normalisation would make it zero
            size, stride = tuple(volume.shape[2:]), self.encoder.stride
            raise ValueError(f"a volume of {size} voxels is too small: along one axis at least it must exceed {stride}")
        features = self.bottom(deepest)
        for up, skip, finer in zip(self.ups, reversed(self.skips), reversed(maps), strict=True):
            features = up(features, skip(finer))
        features = self.between(features)
        features = self.last(features) if self.stem is None else self.last(features, self.stem(channels_last(volume)))
        logits = self.out(features)
        return logits if self.direct is None else logits + self.direct(deepest, volume)

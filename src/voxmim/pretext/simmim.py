"""SimMIM (arXiv 2111.09886) on 3D volumes: masked image modelling with a linear head, for hierarchical encoders too.

The encoder takes the complete grid, with a learned mask token at every hidden patch. A linear layer predicts the voxels
of each cell of the bottleneck features; voxels beyond the far end of a volume are dropped. The loss is on hidden
patches only.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from voxmim.networks.base import Encoder
from voxmim.networks.patches import patchify, unpatchify
from voxmim.networks.vit import initialise
from voxmim.pretext.masked import Loss, MaskedOutput, MaskedPretext, masked_error
from voxmim.pretext.pretext import Pretext
from voxmim.settings import MaskSettings


@dataclass
class SimMIMSettings:
    """SimMIM.

    Attributes:
        loss: mean absolute (l1) or squared (l2) error over the hidden patches, or l2 below 1 and l1 above (smooth_l1).
    """

    loss: Loss = "l1"


class SimMIM(MaskedPretext):
    """An encoder that takes a mask token, a linear head, and the loss."""

    Settings = SimMIMSettings
    title: ClassVar[str] = "SimMIM"

    def __init__(self, encoder: Encoder, settings: SimMIMSettings, mask: MaskSettings) -> None:
        super().__init__(settings, mask)
        self.encoder = encoder
        self.token = nn.Parameter(torch.empty(encoder.embed_width))
        nn.init.normal_(self.token, std=0.02)
        self.head = nn.Linear(encoder.width, encoder.channels * math.prod(encoder.stride))
        initialise(self.head)
        nn.init.normal_(self.head.weight, std=0.02)  # as in MAE

    @classmethod
    def for_encoder(cls, encoder: type[Encoder]) -> type[Pretext] | None:
        return cls if encoder.takes_mask_token else None

    def forward(self, volume: Tensor, mask: Tensor, present: Tensor | None = None) -> MaskedOutput:
        """Hide the patches of a mask (B, N) in a volume (B, C, X, Y, Z), encode, predict, and compute the loss.

        The loss is over the channels `present`, (B, C) bool; None means all.
        """
        encoded = self.encoder.encode(volume, mask, self.token)
        cells = self.head(encoded.flatten(2).transpose(1, 2)).float()
        # A cell's outputs are the voxels of a box of one stride; the encoder's patches may be smaller.
        (x, y, z), (gx, gy, gz) = volume.shape[2:], encoded.shape[2:]
        predicted = unpatchify(cells, (gx, gy, gz), self.encoder.stride)[..., :x, :y, :z]
        prediction, target = patchify(predicted, self.encoder.patch), patchify(volume.float(), self.encoder.patch)
        loss = masked_error(prediction, target, self.settings.loss, mask, present)
        return MaskedOutput(loss, prediction, target, mask, present)

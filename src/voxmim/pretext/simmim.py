"""SimMIM (arXiv 2111.09886) on 3D volumes: the plainest masked image modelling, and one for every encoder.

The encoder sees the whole grid, with a learned token at every hidden patch, so that hierarchical encoders, which
cannot leave patches out, can be pre-trained too. A single linear layer turns each cell of the deepest map into the
voxels that the cell stands for; where cells stick out at the far end of a volume, what they say of voxels beyond it
is left out. The loss is on hidden patches only.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from voxmim.networks.patches import Triple, grid_of, patchify, unpatchify
from voxmim.networks.vit import initialise
from voxmim.pretext.mae import ERRORS, MAEOutput, counted_in
from voxmim.pretext.masking import random_mask, units_to_patches
from voxmim.settings import Loss


class MaskableEncoder(Protocol):
    """What SimMIM asks of an encoder.

    Attributes:
        channels: of the volumes.
        patch: voxels of a patch along X, Y, Z.
        embed_width: length of an embedded patch, and so of the mask token.
        width: channels of the deepest map.
        stride: voxels of a cell of the deepest map along X, Y, Z.
    """

    channels: int
    patch: Triple
    embed_width: int
    width: int
    stride: Triple

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """(B, width, X/sx, Y/sy, Z/sz) the deepest map, `token` standing in for the patches `hidden` (B, N)."""


class SimMIM(nn.Module):
    """Encoder, linear head and loss.

    Args:
        encoder: the network that is pre-trained.
        unit: voxels of a mask unit along X, Y, Z, a multiple of the encoder's patch.
        ratio: the share of the units that is hidden.
        loss: ``l1`` (the paper's), ``l2`` or ``smooth_l1``, as that of MAE.

    Raises:
        ValueError: the unit is not a whole number of patches.
    """

    def __init__(self, encoder: MaskableEncoder, unit: Triple, ratio: float, loss: Loss = "l1") -> None:
        super().__init__()
        self.encoder, self.unit, self.ratio, self.loss = encoder, unit, ratio, loss
        self._times = grid_of(unit, encoder.patch)
        self.token = nn.Parameter(torch.empty(encoder.embed_width))
        nn.init.normal_(self.token, std=0.02)
        self.head = nn.Linear(encoder.width, encoder.channels * math.prod(encoder.stride))
        initialise(self.head)
        nn.init.normal_(self.head.weight, std=0.02)  # as MAE's

    def forward(
        self,
        volume: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        present: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, encode, predict and compare.

        Args:
            volume: (B, C, X, Y, Z), a whole number of patches along each axis, and of mask units where none is given.
            mask: (B, N) bool over patches, True means hidden; None draws one of whole units.
            generator: of the drawn mask (on the CPU).
            present: (B, C) bool, the channels of each sample that count; None where all do.
        """
        if mask is None:
            units = grid_of(tuple(volume.shape), self.unit)
            mask = units_to_patches(
                random_mask(len(volume), math.prod(units), self.ratio, generator), units, self._times
            )
        mask = mask.to(volume.device)

        encoded = self.encoder.encode(volume, mask, self.token)
        cells = self.head(encoded.flatten(2).transpose(1, 2)).float()
        # A cell's outputs are the voxels of a box of one stride, and the encoder's patches may be smaller ones.
        (x, y, z), (gx, gy, gz) = volume.shape[2:], encoded.shape[2:]
        predicted = unpatchify(cells, (gx, gy, gz), self.encoder.stride)[..., :x, :y, :z]
        prediction, target = patchify(predicted, self.encoder.patch), patchify(volume.float(), self.encoder.patch)

        counted = counted_in(mask, present, target.shape[-1])
        return MAEOutput(ERRORS[self.loss](prediction[counted], target[counted]), prediction, target, mask, present)

    def reconstruct(self, volume: Tensor, output: MAEOutput) -> Tensor:
        """(B, C, X, Y, Z) in the volume's units: predicted hidden patches, the visible ones pasted in."""
        pasted = torch.where(output.mask.unsqueeze(-1), output.prediction, output.target)
        return unpatchify(pasted, grid_of(tuple(volume.shape), self.encoder.patch), self.encoder.patch)

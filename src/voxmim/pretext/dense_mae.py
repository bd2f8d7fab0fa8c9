"""The masked autoencoder on a convolutional U-Net, as in arXiv 2410.23132 but without sparse convolutions.

Convolutions cannot leave places out as a transformer leaves out tokens. So most mask units of a crop are set to zero,
the whole U-Net, decoder and skips included, predicts every voxel, and the loss is on hidden voxels only. Zero is the
lower end of the window in CT, so that a hidden unit looks like air there, and the mean in MR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxmim.networks.patches import Triple, grid_of, mask_to_voxels, patchify, unpatchify
from voxmim.networks.unet import ResidualEncoder, UNet
from voxmim.pretext.mae import ERRORS, MAEOutput, counted_in
from voxmim.pretext.masking import random_mask
from voxmim.settings import Loss


class DenseMAE(nn.Module):
    """The network and the loss.

    Args:
        network: predicts as many channels as the scans have.
        unit: voxels of a mask unit along X, Y, Z, best a multiple of ``network.encoder.patch``.
        ratio: share of mask units that are hidden.
        loss: mean absolute (l1) or squared (l2) error over the hidden voxels, or smooth_l1, as that of MAE.
    """

    def __init__(self, network: UNet, unit: Triple, ratio: float = 0.75, loss: Loss = "l1") -> None:
        super().__init__()
        self.network, self.unit, self.ratio, self.loss = network, unit, ratio, loss

    @property
    def encoder(self) -> ResidualEncoder:
        """The network that is pre-trained."""
        return self.network.encoder

    def forward(
        self,
        volume: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        present: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, predict and compare; N and P in the output count mask units and voxels of one over all channels.

        Args:
            volume: (B, C, X, Y, Z), a whole number of mask units along each axis.
            mask: (B, N) bool, True means hidden; None draws one.
            generator: of the drawn mask (on the CPU).
            present: (B, C) bool, the channels of each sample that count; None where all do.

        Raises:
            ValueError: the volume is not a whole number of mask units, or does not fit the network.
        """
        grid = grid_of(tuple(volume.shape), self.unit)
        if mask is None:
            mask = random_mask(len(volume), grid[0] * grid[1] * grid[2], self.ratio, generator)
        mask = mask.to(volume.device)
        seen = volume.masked_fill(mask_to_voxels(mask, grid, self.unit), 0)
        prediction = patchify(self.network(seen).float(), self.unit)
        target = patchify(volume.float(), self.unit)
        counted = counted_in(mask, present, target.shape[-1])
        return MAEOutput(ERRORS[self.loss](prediction[counted], target[counted]), prediction, target, mask, present)

    def reconstruct(self, volume: Tensor, output: MAEOutput) -> Tensor:
        """(B, C, X, Y, Z) in the volume's units: predicted hidden units, the visible voxels pasted in."""
        grid = grid_of(tuple(volume.shape), self.unit)
        predicted = unpatchify(output.prediction, grid, self.unit)
        return torch.where(mask_to_voxels(output.mask, grid, self.unit), predicted, volume.float())

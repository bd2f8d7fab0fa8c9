"""The masked autoencoder (arXiv 2111.06377) on 3D patches, as in arXiv 2204.11716.

Most patches of a crop are hidden. The encoder sees the visible ones only. A light decoder gets their encodings,
puts a learned mask token at every hidden place, and predicts the voxels there. The loss is on hidden patches only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from voxmim.networks.patches import grid_of, patchify, unpatchify
from voxmim.networks.positions import rotary_angles, sincos_positions
from voxmim.networks.vit import Block, ViT, initialise
from voxmim.pretext.masking import random_mask, visible_index
from voxmim.recipe import MAESettings


class MAEOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        loss: scalar, the mean error over the hidden patches.
        prediction: (B, N, P) the decoder's output for every patch, in the target's units.
        target: (B, N, P) what it should have been.
        mask: (B, N) bool, True means hidden.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    mask: Tensor


class MAE(nn.Module):
    """Encoder, decoder and loss.

    Args:
        encoder: the network that is pre-trained.
        settings: ratio, the decoder's size, target and loss.
    """

    def __init__(self, encoder: ViT, settings: MAESettings) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        width = settings.decoder_width
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.ModuleList(Block(width, settings.decoder_heads) for _ in range(settings.decoder_depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, encoder.embed.in_features)
        for part in (self.embed, self.decoder, self.head):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, volume: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> MAEOutput:
        """Hide, encode, decode and compare.

        Args:
            volume: (B, C, X, Y, Z), a whole number of patches along each axis.
            mask: (B, N) bool, True means hidden, as many in each sample; None draws one.
            generator: of the drawn mask (on the CPU).
        """
        grid = grid_of(tuple(volume.shape), self.encoder.patch)
        if mask is None:
            mask = random_mask(len(volume), grid[0] * grid[1] * grid[2], self.settings.ratio, generator)
        mask = mask.to(volume.device)
        visible = visible_index(mask)

        encoded = self.embed(self.encoder(volume, visible))
        tokens = self.mask_token.to(encoded.dtype).expand(*mask.shape, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand(-1, -1, encoded.shape[-1]), encoded)
        tokens = tokens + sincos_positions(grid, encoded.shape[-1]).to(tokens.device)
        angles = None
        if self.encoder.rotary:
            angles = rotary_angles(grid, encoded.shape[-1] // self.settings.decoder_heads).to(tokens.device)[None]
        for block in self.decoder:
            tokens = block(tokens, angles)
        prediction = self.head(self.norm(tokens)).float()

        target = self.target(volume)
        difference = prediction[mask] - target[mask]
        error = difference.abs() if self.settings.loss == "l1" else difference.square()
        return MAEOutput(error.mean(), prediction, target, mask)

    def target(self, volume: Tensor) -> Tensor:
        """(B, N, P) what is to be predicted: the voxels, or the voxels normalised per patch."""
        patches = patchify(volume.float(), self.encoder.patch)
        if self.settings.target == "raw":
            return patches
        mean, deviation = _patch_statistics(patches)
        return (patches - mean) / deviation

    def reconstruct(self, volume: Tensor, output: MAEOutput) -> Tensor:
        """(B, C, X, Y, Z) in the volume's units: predicted hidden patches, the visible ones pasted in."""
        patches = patchify(volume.float(), self.encoder.patch)
        predicted = output.prediction
        if self.settings.target == "normalised":
            # A normalised target leaves a patch's mean and spread open: they are taken from the patch itself.
            mean, deviation = _patch_statistics(patches)
            predicted = predicted * deviation + mean
        pasted = torch.where(output.mask.unsqueeze(-1), predicted, patches)
        return unpatchify(pasted, grid_of(tuple(volume.shape), self.encoder.patch), self.encoder.patch)


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()

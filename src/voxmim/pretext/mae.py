"""The masked autoencoder (arXiv 2111.06377) on 3D patches, as in arXiv 2204.11716.

Most patches of a crop are hidden. The encoder sees the visible ones only. A light decoder gets their encodings,
puts a learned mask token at every hidden place, and predicts the voxels there. The loss is on hidden patches only.

A decoder by cross-attention (arXiv 2401.14391) is cheaper: its mask tokens look at the visible ones and not at each
other, so that each can be predicted alone, and a share of them is enough to learn from.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.patches import Triple, grid_of, patchify, unpatchify
from voxmim.networks.positions import rotary_angles, rotate, sincos_positions
from voxmim.networks.vit import Block, ViT, initialise
from voxmim.pretext.masking import random_mask, visible_index
from voxmim.settings import Loss

ERRORS = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}


class MAEOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        loss: scalar, the mean error over the hidden patches that were predicted.
        prediction: (B, N, P) the decoder's output for every patch, in the target's units. A decoder by
            cross-attention leaves zeros at visible patches and, in training, at hidden ones beyond its share.
        target: (B, N, P) what it should have been.
        mask: (B, N) bool, True means hidden.
        present: (B, C) bool, the channels that count; None where all do.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    mask: Tensor
    present: Tensor | None = None


class CrossBlock(nn.Module):
    """A pre-norm block of a decoder: tokens attend to a memory, not to each other; an MLP follows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, memory: Tensor, angles: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Inform tokens (B, R, width) from a memory (B, V, width); `angles` turn both by their places."""
        b, r, width = tokens.shape
        q = self.query(self.norm1(tokens)).reshape(b, r, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(memory).reshape(b, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotate(q, angles[0]), rotate(k, angles[1])
        mixed = functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.project(mixed.transpose(1, 2).reshape(b, r, width))
        return tokens + self.mlp(self.norm2(tokens))


class MAE(nn.Module):
    """Encoder, decoder and loss.

    Args:
        encoder: the network that is pre-trained.
        ratio: share of patches that are hidden where no mask is given.
        decoder_width, decoder_depth, decoder_heads: of the decoder's blocks.
        target: ``raw`` voxels, or voxels ``normalised`` per patch.
        loss: mean absolute (``l1``) or squared (``l2``) error over the hidden patches, or ``smooth_l1``: squared
            below an error of 1 and absolute above it.
        cross: decode by cross-attention.
        share: of the hidden patches that a training step predicts, drawn at random; in evaluation all are. Below 1
            it needs `cross`.

    Raises:
        ValueError: share does not lie above 0 and up to 1, or is below 1 without cross.
    """

    def __init__(
        self,
        encoder: ViT,
        ratio: float = 0.75,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 8,
        target: Literal["raw", "normalised"] = "raw",
        loss: Loss = "l1",
        cross: bool = False,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(
                f"the share of hidden patches that are predicted must lie above 0 and up to 1, not {share}"
            )
        if share < 1 and not cross:
            raise ValueError("only a decoder by cross-attention can predict a share of the hidden patches")
        self.encoder, self.ratio, self.loss, self.normalised = encoder, ratio, loss, target == "normalised"
        self.heads, self.cross, self.share = decoder_heads, cross, share
        self.embed = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        kind = CrossBlock if cross else Block
        self.decoder = nn.ModuleList(kind(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.norm = nn.LayerNorm(decoder_width)
        self.head = nn.Linear(decoder_width, encoder.embed.in_features)
        for part in (self.embed, self.decoder, self.head):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)  # intensities are small, and a loud start takes many steps to calm

    def forward(
        self,
        volume: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        present: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, encode, decode and compare.

        Args:
            volume: (B, C, X, Y, Z), a whole number of patches along each axis.
            mask: (B, N) bool, True means hidden, as many in each sample; None draws one.
            generator: of all that is drawn (on the CPU); None takes torch's own.
            present: (B, C) bool, the channels of each sample that count; None where all do.
        """
        grid = grid_of(tuple(volume.shape), self.encoder.patch)
        if mask is None:
            mask = random_mask(len(volume), grid[0] * grid[1] * grid[2], self.ratio, generator)
        predicted = self._share_of(mask, generator).to(volume.device)
        mask = mask.to(volume.device)
        visible = visible_index(mask)

        encoded = self.embed(self.encoder(volume, visible))
        if self.cross:
            prediction = self._decode_across(encoded, visible, predicted, grid)
        else:
            prediction = self._decode_together(encoded, visible, grid)
        target = self.target(volume, present)
        counted = counted_in(predicted, present, target.shape[-1])
        return MAEOutput(ERRORS[self.loss](prediction[counted], target[counted]), prediction, target, mask, present)

    def _share_of(self, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, N) bool: the hidden patches that are predicted."""
        if not self.training or self.share == 1:
            return mask
        count = max(1, round(self.share * int(mask[0].sum())))
        # One shuffle that puts the hidden patches first; on the CPU, so that it is the same on every device.
        order = torch.rand(mask.shape, generator=generator) + ~mask.cpu()
        return order.argsort(dim=1).argsort(dim=1) < count

    def _decode_together(self, encoded: Tensor, visible: Tensor, grid: Triple) -> Tensor:
        """(B, N, P): visible and mask tokens attend to each other."""
        positions, angles = self._places(grid, encoded)
        tokens = self.mask_token.to(encoded.dtype).expand(len(encoded), len(positions), -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand_as(encoded), encoded) + positions
        for block in self.decoder:
            tokens = block(tokens, None if angles is None else angles[None])
        return self.head(self.norm(tokens)).float()

    def _decode_across(self, encoded: Tensor, visible: Tensor, predicted: Tensor, grid: Triple) -> Tensor:
        """(B, N, P): the mask tokens of the patches to be predicted attend to the visible tokens; zeros elsewhere."""
        positions, angles = self._places(grid, encoded)
        asked = visible_index(~predicted)
        tokens, memory = self.mask_token + positions[asked], encoded + positions[visible]
        for block in self.decoder:
            tokens = block(tokens, memory, None if angles is None else (angles[asked], angles[visible]))
        values = self.head(self.norm(tokens)).float()
        nothing = values.new_zeros(*predicted.shape, values.shape[-1])
        return nothing.scatter(1, asked.unsqueeze(-1).expand_as(values), values)

    def _places(self, grid: Triple, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, decoder_width) the position code, and (N, head width // 2) the rotary one if the encoder has it, too."""
        width = encoded.shape[-1]
        positions = sincos_positions(grid, width).to(encoded.device)
        return positions, rotary_angles(grid, width // self.heads).to(encoded.device) if self.encoder.rotary else None

    def target(self, volume: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, N, P) what is to be predicted: the voxels, or the voxels normalised per patch."""
        patches = patchify(volume.float(), self.encoder.patch)
        if not self.normalised:
            return patches
        mean, deviation = _patch_statistics(patches, present)
        return (patches - mean) / deviation

    def reconstruct(self, volume: Tensor, output: MAEOutput) -> Tensor:
        """(B, C, X, Y, Z) in the volume's units: predicted hidden patches, the visible ones pasted in."""
        patches = patchify(volume.float(), self.encoder.patch)
        predicted = output.prediction
        if self.normalised:
            # A normalised target leaves a patch's mean and spread open: they are taken from the patch itself.
            mean, deviation = _patch_statistics(patches, output.present)
            predicted = predicted * deviation + mean
        pasted = torch.where(output.mask.unsqueeze(-1), predicted, patches)
        return unpatchify(pasted, grid_of(tuple(volume.shape), self.encoder.patch), self.encoder.patch)


def counted_in(hidden: Tensor, present: Tensor | None, length: int) -> Tensor:
    """Of which an error is taken: the hidden patches (B, N), or their voxels (B, N, length) in channels `present`."""
    return hidden if present is None else hidden.unsqueeze(-1) & _voxels_of(present, length).to(hidden.device)


def _voxels_of(present: Tensor, length: int) -> Tensor:
    """(B, 1, length) bool of a patch's voxels, in `patchify`'s order, from (B, C) of its channels."""
    return present.repeat_interleave(length // present.shape[1], dim=1).unsqueeze(1)


def _patch_statistics(patches: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, N, 1) mean and deviation of each patch, over the channels that count."""
    if present is None:
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    weight = _voxels_of(present, patches.shape[-1]).to(patches)
    count = weight.sum(-1, keepdim=True)
    mean = (patches * weight).sum(-1, keepdim=True) / count
    variance = ((patches - mean).square() * weight).sum(-1, keepdim=True) / (count - 1)
    return mean, (variance + 1e-6).sqrt()

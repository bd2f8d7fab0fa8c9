"""The masked autoencoder (arXiv 2111.06377) on 3D patches, as in arXiv 2204.11716.

The encoder takes only the visible patches. A light decoder takes their encodings and a learned mask token at every
hidden position, and predicts the hidden voxels. The loss is on hidden patches only.

A cross-attention decoder (arXiv 2401.14391) is cheaper: its mask tokens attend to the visible tokens and not to each
other, so that a fraction of them is enough to learn from.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from voxmim.networks.base import Encoder
from voxmim.networks.patches import grid_of, patchify
from voxmim.networks.positions import rope_angles, rotate, sincos_positions
from voxmim.networks.unet import ConvEncoder
from voxmim.networks.vit import Block, attend, initialise, take
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.masked import Loss, MaskedOutput, MaskedPretext, masked_error, on_device, voxels_of
from voxmim.pretext.masking import draw_masks, visible_index
from voxmim.pretext.pretext import Pretext
from voxmim.settings import MaskSettings, Triple, check_range


@dataclass
class MAESettings:
    """A masked autoencoder. A U-Net's MAE has its own decoder and uses the loss only.

    Attributes:
        decoder_width: of the decoder's tokens.
        decoder_depth: number of the decoder's blocks.
        decoder_heads: the decoder's attention heads.
        target: raw voxels, or voxels normalised per patch.
        loss: mean absolute (l1) or squared (l2) error over the hidden patches, or l2 below 1 and l1 above (smooth_l1).
        cross_attention: decode by cross-attention from hidden to visible patches, which is cheaper.
        predicted_fraction: fraction of the hidden patches that a training step predicts; below 1 it needs
            cross_attention.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 8
    target: Literal["raw", "normalised"] = "raw"
    loss: Loss = "l1"
    cross_attention: bool = False
    predicted_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "decoder_width decoder_depth decoder_heads", 1)
        check_range(self, "predicted_fraction", 0, 1, "(]")
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} must be a multiple of its number of heads, {self.decoder_heads}"
            )
        if self.predicted_fraction < 1 and not self.cross_attention:
            raise ValueError(f"predicted_fraction is {self.predicted_fraction}, but below 1 it needs cross_attention")


class CrossBlock(nn.Module):
    """A pre-norm decoder block: cross-attention from tokens to a memory, then an MLP."""

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
        """Tokens (B, R, width) attend to a memory (B, V, width); `angles` are the RoPE angles of both."""
        b, r, width = tokens.shape
        q = self.query(self.norm1(tokens)).reshape(b, r, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(memory).reshape(b, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotate(q, angles[0]), rotate(k, angles[1])
        mixed = attend(q, k, v)
        tokens = tokens + self.project(mixed.transpose(1, 2).reshape(b, r, width))
        return tokens + self.mlp(self.norm2(tokens))


class MAE(MaskedPretext):
    """An encoder that takes visible patches only, a transformer decoder, and the loss."""

    Settings = MAESettings
    title: ClassVar[str] = "MAE"

    def __init__(self, encoder: Encoder, settings: MAESettings, mask: MaskSettings) -> None:
        super().__init__(settings, mask)
        self.encoder = encoder
        width, heads = settings.decoder_width, settings.decoder_heads
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        kind = CrossBlock if settings.cross_attention else Block
        self.decoder = nn.ModuleList(kind(width, heads) for _ in range(settings.decoder_depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, encoder.channels * math.prod(encoder.patch))
        for part in (self.embed, self.decoder, self.head):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)  # with Xavier's, the outputs would be far larger than intensities

    @classmethod
    def for_encoder(cls, encoder: type[Encoder]) -> type[Pretext] | None:
        if issubclass(encoder, ConvEncoder):
            return DenseMAE
        return cls if encoder.encodes_visible else None

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        """The crops, the indices of the visible patches and of those to predict, and the channels in the loss."""
        mask = draw_masks(self.mask, self.encoder.patch, image, seeds)
        hidden = visible_index(~mask)
        if self.training and self.settings.predicted_fraction < 1:
            count = max(1, round(self.settings.predicted_fraction * hidden.shape[1]))
            generators = (torch.Generator().manual_seed(int(seed) + 2) for seed in seeds)
            drawn = [torch.randperm(hidden.shape[1], generator=generator)[:count] for generator in generators]
            hidden = hidden.gather(1, torch.stack(drawn))
        visible = visible_index(mask)
        return image, visible.to(image.device), hidden.to(image.device), on_device(present, image)

    def forward(
        self, volume: Tensor, visible: Tensor, predicted: Tensor, present: Tensor | None = None
    ) -> MaskedOutput:
        """Encode visible patches (B, V) of a volume (B, C, X, Y, Z), predict hidden ones (B, R), compute the loss.

        The loss is over the channels `present`, (B, C) bool; None means all.
        """
        grid = grid_of(tuple(volume.shape), self.encoder.patch)
        encoded = self.embed(self.encoder(volume, visible))
        decode = self._decode_across if self.settings.cross_attention else self._decode_all
        values = self.head(self.norm(decode(encoded, visible, predicted, grid))).float()
        target = self.target(volume, present)
        loss = masked_error(values, take(target, predicted), self.settings.loss, present=present)
        prediction = torch.zeros_like(target).scatter(1, predicted.unsqueeze(-1).expand_as(values), values)
        mask = torch.ones(target.shape[:2], dtype=torch.bool, device=target.device).scatter(1, visible, False)
        return MaskedOutput(loss, prediction, target, mask, present)

    def _decode_all(self, encoded: Tensor, visible: Tensor, predicted: Tensor, grid: Triple) -> Tensor:
        """(B, R, width): visible and mask tokens attend to each other."""
        positions, angles = self._positions(grid, encoded)
        tokens = self.mask_token.to(encoded.dtype).expand(len(encoded), len(positions), -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand_as(encoded), encoded) + positions
        for block in self.decoder:
            tokens = block(tokens, None if angles is None else angles[None])
        return take(tokens, predicted)

    def _decode_across(self, encoded: Tensor, visible: Tensor, predicted: Tensor, grid: Triple) -> Tensor:
        """(B, R, width): the mask tokens of the patches to predict attend to the visible tokens."""
        positions, angles = self._positions(grid, encoded)
        tokens, memory = self.mask_token + positions[predicted], encoded + positions[visible]
        for block in self.decoder:
            tokens = block(tokens, memory, None if angles is None else (angles[predicted], angles[visible]))
        return tokens

    def _positions(self, grid: Triple, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, decoder_width) the position embedding, and (N, head width // 2) RoPE angles if the encoder has RoPE."""
        width = encoded.shape[-1]
        positions = sincos_positions(grid, width, encoded.device)
        if not getattr(self.encoder, "rope", False):
            return positions, None
        return positions, rope_angles(grid, width // self.settings.decoder_heads, device=encoded.device)

    def target(self, volume: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, N, P) the voxels, or the voxels normalised per patch."""
        patches = patchify(volume.float(), self.encoder.patch)
        if self.settings.target == "raw":
            return patches
        mean, std = _patch_statistics(patches, present)
        return (patches - mean) / std

    def reconstruct(self, volume: Tensor, output: MaskedOutput) -> Tensor:
        if self.settings.target == "normalised":  # mean and std are not predicted: the true ones are used
            patches = patchify(volume.float(), self.encoder.patch)
            mean, std = _patch_statistics(patches, output.present)
            output = output._replace(prediction=output.prediction * std + mean, target=patches)
        return super().reconstruct(volume, output)

    @classmethod
    def relative_cost(cls, encoder: type[Encoder]) -> float:
        return 0.6 if encoder.encodes_visible else 1.0  # measured with the recipe tiny on a CPU core


def _patch_statistics(patches: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, N, 1) mean and standard deviation of each patch, over the present channels."""
    if present is None:
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    weight = voxels_of(present, patches.shape[-1]).to(patches)
    count = weight.sum(-1, keepdim=True)
    mean = (patches * weight).sum(-1, keepdim=True) / count
    variance = ((patches - mean).square() * weight).sum(-1, keepdim=True) / (count - 1)
    return mean, (variance + 1e-6).sqrt()

"""Plain implementation of the paper's models, without optimisations such as fused attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxmim.networks.patches import grid_of, patchify
from voxmim.networks.positions import sincos_positions
from voxmim.networks.vit import ViTSettings, take
from voxmim.pretext.mae import MAESettings
from voxmim.settings import Triple


class PlainAttention(nn.Module):
    """Self-attention without a fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        return self.project((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, width))


class PlainBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = PlainAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PlainViT(nn.Module):
    """Patch embedding, positions and transformer blocks."""

    def __init__(self, vit: ViTSettings, crop: Triple) -> None:
        super().__init__()
        self.patch = vit.patch
        self.embed = nn.Conv3d(1, vit.width, vit.patch, vit.patch)
        self.register_buffer("positions", sincos_positions(grid_of(crop, vit.patch), vit.width))
        self.blocks = nn.Sequential(*(PlainBlock(vit.width, vit.heads) for _ in range(vit.depth)))
        self.norm = nn.LayerNorm(vit.width)

    def embed_patches(self, volume: Tensor) -> Tensor:
        return self.embed(volume).flatten(2).transpose(1, 2)

    def encode(self, tokens: Tensor) -> Tensor:
        return self.norm(self.blocks(tokens))


class PlainMAE(nn.Module):
    """Masked autoencoder; the encoder sees only the visible patches."""

    def __init__(self, vit: ViTSettings, mae: MAESettings, crop: Triple) -> None:
        super().__init__()
        inner, grid = mae.decoder_width, grid_of(crop, vit.patch)
        self.vit = PlainViT(vit, crop)
        self.reduce = nn.Linear(vit.width, inner)
        self.mask_token = nn.Parameter(torch.zeros(inner))
        self.register_buffer("positions", sincos_positions(grid, inner))
        self.decoder = nn.Sequential(*(PlainBlock(inner, mae.decoder_heads) for _ in range(mae.decoder_depth)))
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, vit.patch[0] * vit.patch[1] * vit.patch[2])

    def forward(self, volume: Tensor, visible: Tensor) -> Tensor:
        tokens = self.vit.embed_patches(volume) + self.vit.positions
        encoded = self.reduce(self.vit.encode(take(tokens, visible)))
        mask = torch.ones(tokens.shape[:2], device=volume.device).scatter(1, visible, 0)
        full = self.mask_token.to(encoded.dtype).expand(*mask.shape, -1)
        full = full.scatter(1, visible.unsqueeze(-1).expand_as(encoded), encoded) + self.positions
        error = (self.head(self.norm(self.decoder(full))) - patchify(volume, self.vit.patch)).abs().mean(-1)
        return (error * mask).sum() / mask.sum()


class PlainSimMIM(nn.Module):
    """SimMIM: all patches are encoded, masked ones as a mask token; linear head."""

    def __init__(self, vit: ViTSettings, crop: Triple) -> None:
        super().__init__()
        self.vit = PlainViT(vit, crop)
        self.token = nn.Parameter(torch.zeros(vit.width))
        self.head = nn.Linear(vit.width, vit.patch[0] * vit.patch[1] * vit.patch[2])

    def forward(self, volume: Tensor, mask: Tensor) -> Tensor:
        tokens = self.vit.embed_patches(volume)
        tokens = torch.where(mask.unsqueeze(-1), self.token.to(tokens.dtype), tokens) + self.vit.positions
        error = (self.head(self.vit.encode(tokens)) - patchify(volume, self.vit.patch)).abs().mean(-1)
        return (error * mask).sum() / mask.sum()

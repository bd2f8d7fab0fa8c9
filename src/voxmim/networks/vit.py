"""The vision transformer on 3D patches (arXiv 2010.11929), which can encode visible patches only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.base import Encoder
from voxmim.networks.patches import grid_of, patchify, to_map
from voxmim.networks.positions import ROPE_TEMPERATURE, resize_positions, rope_angles, rotate, sincos_positions
from voxmim.settings import Triple, check_range

# Up to this number of tokens, unfused attention is faster than torch's fused kernel for bfloat16 on a CPU: 1.1 times at
# a thousand tokens, 3 times at a hundred. With more tokens, the fused kernel saves memory.
_MAX_UNFUSED = 1536


@dataclass
class ViTSettings:
    """A vision transformer on 3D patches.

    Attributes:
        patch: voxels of a patch along X, Y, Z.
        width: of a token.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of a block's MLP over the token's width.
        position_embedding: fixed sine-cosine, or learned (interpolated when the grid changes).
        rope: rotary position embedding of queries and keys, in addition.
        rope_temperature: its longest wavelength, in 2 pi tokens.
        swiglu: gated MLPs (SwiGLU, arXiv 2002.05202) with a norm, as in EVA-02 (arXiv 2303.11331) and Primus.
        drop_path: probability that a sample skips the last block, rising linearly from 0 at the first (stochastic
            depth, arXiv 1603.09382).
        registers: number of learned tokens without a position that take part in the attention (arXiv 2309.16588); they
            are not returned.
        grad_checkpointing: recompute the blocks in the backward pass: slower, in less memory.
    """

    patch: Triple = (16, 16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    position_embedding: Literal["sincos", "learned"] = "sincos"
    rope: bool = False
    rope_temperature: float = ROPE_TEMPERATURE
    swiglu: bool = False
    drop_path: float = 0.0
    registers: int = 0
    grad_checkpointing: bool = False

    sizes: ClassVar[dict[str, dict[str, Any]]] = {  # arXiv 2010.11929, 2012.12877
        "tiny": {"width": 192, "depth": 12, "heads": 3},
        "small": {"width": 384, "depth": 12, "heads": 6},
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    }
    min_cells: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range(self, "patch width depth heads", 1)
        check_range(self, "registers", 0)
        check_range(self, "rope_temperature", 1)
        check_range(self, "drop_path", 0, 1, "[)")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of its number of heads, {self.heads}")

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the bottleneck features."""
        return self.patch

    def summary(self) -> str:
        """Such as ``ViT of width 768, depth 12, 12 heads``."""
        return f"ViT of width {self.width}, depth {self.depth}, {self.heads} heads"


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor, angles: Tensor | None = None) -> Tensor:
        """(B, N, width) to the same shape; `angles` (1 or B, N, width // heads // 2) are those of RoPE."""
        b, n, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = attend(q, k, v)
        return self.project(mixed.transpose(1, 2).reshape(b, n, width))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, heads, N, width)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= _MAX_UNFUSED:
        return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1) @ value
    return functional.scaled_dot_product_attention(query, key, value)


class SwiGLU(nn.Module):
    """A gated MLP with a norm, (B, N, width) to the same shape."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.value, self.norm = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.project(self.norm(functional.silu(self.gate(tokens)) * self.value(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP, each added to its input; `drop_path` may skip each."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, swiglu: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        plain = (nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.mlp = SwiGLU(width, hidden) if swiglu else nn.Sequential(*plain)
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, angles: Tensor | None = None) -> Tensor:
        tokens = tokens + self._maybe_drop(self.attention(self.norm1(tokens), angles))
        return tokens + self._maybe_drop(self.mlp(self.norm2(tokens)))

    def _maybe_drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1.0 - self.drop_path)


class ViT(Encoder):
    """The vision transformer."""

    encodes_visible = True
    takes_mask_token = True
    input_weights = ("embed.weight",)

    def __init__(self, settings: ViTSettings, channels: int = 1, crop: Triple = (96, 96, 96)) -> None:
        super().__init__()
        patch, width, depth = settings.patch, settings.width, settings.depth
        self.channels, self.patch, self.grid, self.stride = channels, patch, grid_of(crop, patch), patch
        self.width, self.embed_width, self.depth = width, width, depth
        self.grad_checkpointing = settings.grad_checkpointing
        self.embed = nn.Linear(channels * patch[0] * patch[1] * patch[2], width)
        self.rope, self.rope_temperature = settings.rope, settings.rope_temperature
        self.head_width = width // settings.heads
        self.learned = settings.position_embedding == "learned"
        if self.learned:
            self.positions = nn.Parameter(torch.empty(math.prod(self.grid), width))
            nn.init.trunc_normal_(self.positions, std=0.02)
        else:
            self.register_buffer("positions", sincos_positions(self.grid, width), persistent=False)
        drop_paths = [settings.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        kind = (width, settings.heads, settings.mlp_ratio)
        self.blocks = nn.ModuleList(Block(*kind, drop, settings.swiglu) for drop in drop_paths)
        self.norm = nn.LayerNorm(width)
        initialise(self)
        self.registers = nn.Parameter(torch.randn(settings.registers, width) * 0.02) if settings.registers else None

    @property
    def layers(self) -> list[tuple[str, ...]]:
        return [(f"blocks.{number}",) for number in range(self.depth)]

    def forward(self, volume: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, N or V, width) normalised tokens of a volume (B, C, X, Y, Z), or of its visible patches (B, V) only."""
        (last,) = self.hidden_states(volume, [self.depth], visible)
        return last

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """The tokens as a feature map (B, width, *grid), normalised over the channels; see `Encoder.encode`."""
        (last,) = self.hidden_states(volume, [self.depth], hidden=hidden, token=token)
        return to_map(last, grid_of(tuple(volume.shape), self.patch))

    def tokens(
        self, volume: Tensor, visible: Tensor | None = None, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> Tensor:
        """(B, N or V, width) the first block's input: projected patches, or `token` if hidden, plus positions.

        Visible patches are gathered before the projection, so that hidden patches cost nothing.
        """
        self.check(volume)
        patches = patchify(volume, self.patch)
        positions = self.positions_for(grid_of(tuple(volume.shape), self.patch)).expand(volume.shape[0], -1, -1)
        if visible is not None:
            patches, positions = take(patches, visible), take(positions, visible)
        embedded = self.embed(patches)
        if hidden is not None:
            assert token is not None
            embedded = torch.where(hidden.unsqueeze(-1), token.to(embedded.dtype), embedded)
        return embedded + positions

    def angles(self, volume: Tensor, visible: Tensor | None = None) -> Tensor | None:
        """(1 or B, N or V, head width // 2) the angles of RoPE, or None without it."""
        if not self.rope:
            return None
        grid = grid_of(tuple(volume.shape), self.patch)
        table = rope_angles(grid, self.head_width, self.rope_temperature, volume.device)
        return table[None] if visible is None else table[visible]

    def hidden_states(
        self, volume: Tensor, after: Sequence[int], visible: Tensor | None = None, **hidden: Tensor | None
    ) -> list[Tensor]:
        """The patches' tokens (B, N or V, width) after each of the given numbers of blocks; the last ones normalised.

        See `tokens` for the other arguments.
        """
        tokens, angles, extra = self.tokens(volume, visible, **hidden), self.angles(volume, visible), 0
        if self.registers is not None:
            extra = len(self.registers)
            tokens = torch.cat([self.registers.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
            if angles is not None:
                angles = functional.pad(angles, (0, 0, extra, 0))  # registers have no position: an angle of 0
        states = {}
        for number, block in enumerate(self.blocks, start=1):
            if self.grad_checkpointing and self.training:
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, angles, use_reentrant=False)
            else:
                tokens = block(tokens, angles)
            if number in after:
                patches = tokens[:, extra:]
                states[number] = self.norm(patches) if number == self.depth else patches
        return [states[number] for number in after]

    def positions_for(self, grid: Triple) -> Tensor:
        """(N, width) the position embedding of a grid: a learned table is interpolated, a fixed one computed."""
        if grid == self.grid:
            return self.positions
        if self.learned:
            return resize_positions(self.positions, self.grid, grid)
        return sincos_positions(grid, self.width, self.positions.device)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens (B, N, width) at index (B, V): (B, V, width)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def initialise(network: nn.Module) -> None:
    """Initialise linear layers Xavier-uniform with zero biases (arXiv 2111.06377)."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

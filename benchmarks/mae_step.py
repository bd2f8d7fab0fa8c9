"""What one MAE training step costs at the paper's shape, beside a float32 implementation with plain attention.

    python benchmarks/mae_step.py [--rounds 5]

Both have a ViT-B (768 x 12, 12 heads) on 96³ crops in patches of 16³, a decoder of 512 x 8 with 8 heads, ratio 0.75
and the l1 loss on hidden voxels. voxmim runs as its recipes tell it to: bfloat16 autocast, visible patches gathered
before the projection, attention as `attend` computes it, fused AdamW. The plain one projects all patches by a
convolution, writes the attention out, keeps float32 and takes AdamW as it comes. They take turns, round by round, in
one process, so that whatever else the machine does meets both alike. The aim: voxmim at 0.55 of the plain step or less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from voxmim.networks.build import build_encoder
from voxmim.networks.patches import patchify
from voxmim.networks.positions import sincos_positions
from voxmim.networks.vit import ViTSettings, take
from voxmim.pretext.build import build_pretext
from voxmim.pretext.mae import MAESettings
from voxmim.pretext.masking import random_mask, visible_index
from voxmim.report.machine import machine
from voxmim.settings import MaskSettings, Training
from voxmim.training.optimiser import make_optimiser

CROP, PATCH, GRID = (96, 96, 96), (16, 16, 16), (6, 6, 6)
VIT, DECODER, MASK = ViTSettings(), MAESettings(), MaskSettings()  # their defaults are the paper's


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="crops of a step (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="torch threads (default: %(default)s)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    volume = torch.rand(options.batch, 1, *CROP)
    mask = random_mask(options.batch, GRID[0] * GRID[1] * GRID[2], MASK.ratio)
    ours, plain = build_pretext("mae", DECODER, MASK, build_encoder(VIT, 1, CROP)), PlainMAE()
    ours_step, plain_step = voxmim_step(ours, volume, mask), float32_step(plain, volume, mask)
    for step in (ours_step, plain_step):
        step()  # the first one also makes the optimiser's state

    ours_times, plain_times = [], []
    for _ in range(options.rounds):
        ours_times.append(seconds(ours_step))
        plain_times.append(seconds(plain_step))
    ratio = statistics.median(a / b for a, b in zip(ours_times, plain_times, strict=True))
    print(
        f"one MAE step, ViT-B on {CROP[0]}³, patch {PATCH[0]}, batch {options.batch}, median of {options.rounds} rounds"
    )
    for name, network, times in (("plain, float32", plain, plain_times), ("voxmim, bfloat16", ours, ours_times)):
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        print(f"  {name:<18} {statistics.median(times):7.2f} s   {millions:6.1f} M parameters")
    print(f"  voxmim / plain     {ratio:7.2f}")
    print(machine())


def seconds(step: Callable[[], None]) -> float:
    """How long one step takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def voxmim_step(network: nn.Module, volume: Tensor, mask: Tensor) -> Callable[[], None]:
    """One step as voxmim trains."""
    optimiser = make_optimiser(network, Training(), (0.9, 0.95))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(volume, mask).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def float32_step(network: PlainMAE, volume: Tensor, mask: Tensor) -> Callable[[], None]:
    """One step of the plain implementation."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def step() -> None:
        network(volume, mask).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


class PlainAttention(nn.Module):
    """Self-attention written out: scores, softmax, sum."""

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


class PlainMAE(nn.Module):
    """The same method at the same sizes, written without regard to cost."""

    def __init__(self) -> None:
        super().__init__()
        width, inner = VIT.width, DECODER.decoder_width
        self.embed = nn.Conv3d(1, width, PATCH, PATCH)
        self.register_buffer("positions", sincos_positions(GRID, width))
        self.blocks = nn.Sequential(*(PlainBlock(width, VIT.heads) for _ in range(VIT.depth)))
        self.norm = nn.LayerNorm(width)
        self.reduce = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(inner))
        self.register_buffer("decoder_positions", sincos_positions(GRID, inner))
        self.decoder = nn.Sequential(*(PlainBlock(inner, DECODER.decoder_heads) for _ in range(DECODER.decoder_depth)))
        self.decoder_norm = nn.LayerNorm(inner)
        self.head = nn.Linear(inner, PATCH[0] * PATCH[1] * PATCH[2])

    def forward(self, volume: Tensor, mask: Tensor) -> Tensor:
        visible = visible_index(mask)
        tokens = self.embed(volume).flatten(2).transpose(1, 2) + self.positions
        encoded = self.reduce(self.norm(self.blocks(take(tokens, visible))))
        full = self.mask_token.expand(*mask.shape, -1)
        full = full.scatter(1, visible.unsqueeze(-1).expand_as(encoded), encoded) + self.decoder_positions
        prediction = self.head(self.decoder_norm(self.decoder(full)))
        error = (prediction - patchify(volume, PATCH)).abs().mean(-1)
        return (error * mask).sum() / mask.sum()


if __name__ == "__main__":
    main()

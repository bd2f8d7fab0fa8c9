"""A pre-training step, compared with a plain float32 implementation of the paper's models (`plain_mae`).

All sides use the paper's ViT-B with crops of 96^3. The plain model always has the paper's deep decoder; ours has that
or the decoder of a light recipe. The bf16 rows run the plain model with autocast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.plain_mae import PlainMAE, PlainSimMIM
from benchmarks.timing import (
    Report,
    Work,
    alternate,
    bf16_flops,
    count_flops,
    default_malloc,
    peak_memory,
    training_step,
)
from voxmim.networks.build import build_encoder
from voxmim.networks.precision import working_dtype
from voxmim.networks.vit import ViTSettings
from voxmim.pretext.build import build_pretext
from voxmim.pretext.mae import MAESettings
from voxmim.pretext.simmim import SimMIMSettings
from voxmim.settings import MaskSettings, Training, Triple
from voxmim.training.optimiser import make_optimiser

CROP: Triple = (96, 96, 96)
BLOCK = MAESettings(decoder_depth=1)
CROSS = MAESettings(decoder_depth=1, cross_attention=True, predicted_fraction=0.25)


@dataclass(frozen=True)
class Case:
    """A pretext with a patch and batch size, and our settings for each row."""

    pretext: str
    patch: int
    batch: int
    variants: dict[str, MAESettings | SimMIMSettings]


CASES = (
    Case("mae", 16, 8, {"MAE p16 batch 8, deep decoder": MAESettings(), "MAE p16 batch 8, one block": BLOCK}),
    Case("mae", 8, 1, {"MAE p8, light": BLOCK, "MAE p8, cross": CROSS}),
    Case("simmim", 16, 8, {"SimMIM batch 8": SimMIMSettings()}),
)
TOY = Case("mae", 16, 2, {"MAE, toy size": MAESettings(48, 1, 2)})


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Time every case."""
    peak_flops = bf16_flops(size=256 if smoke else 2048)
    report.figure("bf16 product", peak_flops / 1e9, "GFLOP/s", "2048^3, best of five")
    for case in (TOY,) if smoke else CASES:
        crop: Triple = (32, 32, 32) if smoke else CROP
        vit = ViTSettings((case.patch,) * 3, *((48, 1, 2) if smoke else (768, 12, 12)))
        volume, seeds = torch.rand(case.batch, 1, *crop), torch.arange(case.batch)
        plain = plain_step(case, vit, volume, seeds)
        ours = {row: our_step(case, settings, vit, volume, seeds) for row, settings in case.variants.items()}
        sides = {**plain, **ours}
        seconds = alternate(sides, rounds if case.patch == 16 else max(1, rounds - 1))
        memory = {name: peak_memory(step) for name, step in sides.items()}
        for row, step in ours.items():
            used = count_flops(step) / min(seconds[row]) / peak_flops
            report.ratio(
                row, seconds["float32"], seconds[row],
                f"peak {memory['float32']:.1f} and {memory[row]:.1f} GiB; {used:.0%} of the bf16 product's rate",
            )  # fmt: skip
            report.ratio(f"{row}, against bf16", seconds["bf16"], seconds[row])


def our_step(
    case: Case, settings: MAESettings | SimMIMSettings, vit: ViTSettings, volume: Tensor, seeds: Tensor
) -> Work:
    """A step as voxmim trains; masks are sampled in the step."""
    crop: Triple = (volume.shape[2], volume.shape[3], volume.shape[4])
    network = build_pretext(case.pretext, settings, MaskSettings(), build_encoder(vit, 1, crop))
    optimiser = make_optimiser(network, Training(), (0.9, 0.95))
    dtype = working_dtype(volume.device, "bf16")
    return training_step(network, optimiser, lambda: network(*network.inputs(volume, seeds)).loss, dtype)


def plain_step(case: Case, vit: ViTSettings, volume: Tensor, seeds: Tensor) -> dict[str, Work]:
    """A step of the plain model in float32 and with bf16 autocast."""
    crop: Triple = (volume.shape[2], volume.shape[3], volume.shape[4])
    settings = next(iter(case.variants.values()))
    example = build_pretext(case.pretext, settings, MaskSettings(), build_encoder(vit, 1, crop))
    mask = example.inputs(volume, seeds)[1]  # MAE: indices of visible patches; SimMIM: mask
    deep = settings if case is TOY else MAESettings()
    network = PlainMAE(vit, deep, crop) if case.pretext == "mae" else PlainSimMIM(vit, crop)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05)
    return {
        name: default_malloc(training_step(network, optimiser, lambda: network(volume, mask), dtype))
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
    }

"""A fine-tuning step, compared with MONAI's network, loss and torch's AdamW in float32 and bf16."""

from __future__ import annotations

import torch

from benchmarks.networks import VIT_B, VIT_TOY, WIDTHS, WIDTHS_TOY, unet_pair, unetr_pair
from benchmarks.timing import Report, alternate, bf16_flops, count_flops, default_malloc, peak_memory, training_step
from voxmim.networks.precision import working_dtype
from voxmim.settings import Training, Triple
from voxmim.tasks.segmentation.loss import make_criterion
from voxmim.tasks.segmentation.structures import Structures
from voxmim.training.optimiser import make_optimiser

CLASSES = 14


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Time a UNETR and a residual U-Net."""
    from monai.losses import DiceCELoss

    crop: Triple = (16, 16, 16) if smoke else (96, 96, 96)
    volume, label = torch.rand(1, 1, *crop), torch.randint(0, CLASSES, (1, 1, *crop))
    peak_flops = bf16_flops(size=256 if smoke else 2048)
    structures = Structures({value: f"organ {value}" for value in range(1, CLASSES)}, {}, tuple(range(CLASSES)), {})
    our_loss = make_criterion(structures)
    their_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    pairs = {
        "UNETR step": unetr_pair(VIT_TOY if smoke else VIT_B, crop, CLASSES),
        "U-Net step": unet_pair(WIDTHS_TOY if smoke else WIDTHS, crop, CLASSES),
    }
    for row, (theirs, ours) in pairs.items():
        their_optimiser = torch.optim.AdamW(theirs.parameters(), lr=3e-4, weight_decay=0.05)
        our_optimiser = make_optimiser(ours, Training(), (0.9, 0.999))

        def their_step_loss(theirs: torch.nn.Module = theirs) -> torch.Tensor:
            return their_loss(theirs(volume).float(), label)

        def our_step_loss(ours: torch.nn.Module = ours) -> torch.Tensor:
            return our_loss(ours(volume).float(), label)

        sides = {
            "float32": default_malloc(training_step(theirs, their_optimiser, their_step_loss)),
            "bf16": default_malloc(training_step(theirs, their_optimiser, their_step_loss, torch.bfloat16)),
            "ours": training_step(ours, our_optimiser, our_step_loss, working_dtype(volume.device, "bf16")),
        }
        seconds = alternate(sides, rounds)
        memory = {name: peak_memory(step) for name, step in sides.items()}
        used = count_flops(sides["ours"]) / min(seconds["ours"]) / peak_flops
        for other in ("float32", "bf16"):
            note = f"peak {memory[other]:.1f} and {memory['ours']:.1f} GiB"
            if other == "bf16":
                note += f"; {used:.0%} of the bf16 product's rate"
            report.ratio(f"{row} against MONAI in {other}", seconds[other], seconds["ours"], note)

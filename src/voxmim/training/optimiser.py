"""AdamW, its parameter groups, and the learning rate's way."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from voxmim.settings import Training

_EXEMPT = ("positions", "registers", "relative_position_bias_table")  # what says where a token is, or stands for none


def make_optimiser(network: nn.Module, training: Training, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW over groups that differ in weight decay and rate.

    Vectors (norms, biases, tokens), registers and position codes are not decayed. With `training.layer_decay` below 1,
    each layer of ``network.encoder`` learns more slowly the further it lies from the output (arXiv 2106.08254).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = len(getattr(getattr(network, "encoder", None), "blocks", ()))
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim == 1 or name.endswith(_EXEMPT)
        decay = 0.0 if exempt else training.weight_decay
        scale = training.layer_decay ** (depth + 1 - _layer(name, depth))
        groups.setdefault((decay, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale, "lr": training.lr * scale}
            for (decay, scale), parameters in groups.items()
        ],
        betas=betas,
        fused=True,
    )


def _layer(name: str, depth: int) -> int:
    """0 for the encoder's input, 1..depth for its blocks, depth + 1 for all that follows."""
    if not name.startswith("encoder.") or name.startswith("encoder.norm"):
        return depth + 1
    block = re.match(r"encoder\.blocks\.(\d+)\.", name)
    return int(block.group(1)) + 1 if block else 0


def learning_rate(step: int, training: Training) -> float:
    """The rate of step 0, 1, ...: a linear rise over the warm-up, then a cosine to zero at the end."""
    warmup = max(1, round(training.warmup * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, training.steps - warmup)))

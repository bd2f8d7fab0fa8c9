"""AdamW, its parameter groups, and the learning rate schedule."""

import math
from inspect import unwrap

import torch
from torch import nn

from voxmim.settings import Training

_NO_DECAY = ("positions", "registers", "relative_position_bias_table")


class AdamW(torch.optim.AdamW):
    """AdamW without the decorators that import torch's compiler, which would take seconds."""

    add_param_group, zero_grad = unwrap(torch.optim.AdamW.add_param_group), unwrap(torch.optim.AdamW.zero_grad)
    state_dict, load_state_dict = unwrap(torch.optim.AdamW.state_dict), unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def make_optimiser(network: nn.Module, training: Training, betas: tuple[float, float]) -> AdamW:
    """AdamW with parameter groups that differ in weight decay and learning rate.

    Vectors (norms, biases, tokens), registers and positional encodings have no weight decay. With `layer_decay` below
    1, the learning rate of each of the `layers` of ``network.encoder`` decreases with its distance from the output
    (arXiv 2106.08254).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    distance = _distances(getattr(network, "encoder", None))
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim == 1 or name.endswith(_NO_DECAY) else training.weight_decay
        scale = training.layer_decay ** distance.get(id(parameter), 0)
        groups.setdefault((decay, scale), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale, "lr": training.lr * scale}
            for (decay, scale), parameters in groups.items()
        ],
        betas=betas,
        fused=True,
    )


def _distances(encoder: nn.Module | None) -> dict[int, int]:
    """The distance in layers of each parameter of an encoder, by its id, from the end of the encoder.

    The last norm has distance 0; other parameters outside all layers are one layer before the first.
    """
    if encoder is None:
        return {}
    layers: list[tuple[str, ...]] = getattr(encoder, "layers", [])
    distances = {}
    for name, parameter in encoder.named_parameters():
        outside = 0 if name.startswith("norm.") else len(layers) + 1
        inside = (len(layers) - i for i, names in enumerate(layers) if name.startswith(tuple(f"{n}." for n in names)))
        distances[id(parameter)] = next(inside, outside)
    return distances


def learning_rate(step: int, training: Training) -> float:
    """The learning rate of a step, counted from 0: linear warm-up, then cosine decay to zero."""
    warmup = max(1, round(training.warmup * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, training.steps - warmup)))

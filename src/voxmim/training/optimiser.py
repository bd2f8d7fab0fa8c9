"""AdamW, its parameter groups, and the schedule of the learning rate."""

import math
from inspect import unwrap

import torch
from torch import nn

from voxmim.settings import Training

_EXEMPT = ("positions", "registers", "relative_position_bias_table")  # what says where a token is, or stands for none


class AdamW(torch.optim.AdamW):
    """AdamW without the decorators that hide it from torch's compiler, whose import would take seconds."""

    add_param_group, zero_grad = unwrap(torch.optim.AdamW.add_param_group), unwrap(torch.optim.AdamW.zero_grad)
    state_dict, load_state_dict = unwrap(torch.optim.AdamW.state_dict), unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def make_optimiser(network: nn.Module, training: Training, betas: tuple[float, float]) -> AdamW:
    """AdamW over groups that differ in weight decay and learning rate.

    Vectors (norms, biases, tokens), registers and positional encodings are not decayed. With `layer_decay` below 1,
    each of the `layers` of ``network.encoder`` learns more slowly the further it lies from the output (arXiv
    2106.08254).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    distance = _distances(getattr(network, "encoder", None))
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim == 1 or name.endswith(_EXEMPT)
        decay = 0.0 if exempt else training.weight_decay
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
    """How many layers each parameter of an encoder, by its id, lies before what follows the encoder.

    What is in none of the layers comes before the first, but for the norm behind the last.
    """
    if encoder is None:
        return {}
    layers: list[tuple[str, ...]] = getattr(encoder, "layers", [])
    found = {}
    for name, parameter in encoder.named_parameters():
        places = [at for at, names in enumerate(layers) if name.startswith(tuple(f"{inner}." for inner in names))]
        first = 0 if name.startswith("norm.") else len(layers) + 1
        found[id(parameter)] = len(layers) - places[0] if places else first
    return found


def learning_rate(step: int, training: Training) -> float:
    """The learning rate of step 0, 1, ...: a linear rise over the warm-up, then a cosine to zero at the end."""
    warmup = max(1, round(training.warmup * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, training.steps - warmup)))

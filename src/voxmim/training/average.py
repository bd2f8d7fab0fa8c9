"""Weights averaged over the steps, which wander less than those of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from voxmim.training.sharding import gather, share_like


class Average:
    """An exponential moving average of a network's parameters, kept beside them; it starts with the first step's.

    Args:
        network: on its device.
        decay: how much of the average stays at each step, 0..1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters = dict(network.named_parameters())
        self._weights = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._move, self._steps = get_ema_multi_avg_fn(decay), 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step in."""
        if self._steps == 0:
            for name, weights in self._weights.items():
                weights.copy_(self._parameters[name])
        else:
            self._move([*self._weights.values()], [*self._parameters.values()], self._steps)
        self._steps += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the averaged weights, and its own again when the block ends."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            own = parameter.detach().clone()
            parameter.copy_(self._weights[name])
            self._weights[name].copy_(own)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"weights": gather(self._weights), "steps": self._steps}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, weights in self._weights.items():
            weights.copy_(share_like(state["weights"][name], weights))
        self._steps = state["steps"]

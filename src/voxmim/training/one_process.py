"""The part of Lightning Fabric's interface that a training in one process needs, because importing Fabric is slow.

Fabric is used for several processes, and for float16 with its loss scaling (see `processes.make_fabric`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Value = TypeVar("Value")


class OneProcess:
    """Replaces a Fabric of one process; methods have the same names.

    Args:
        device: to train on.
        dtype: of forward passes; autocast is used unless it is float32.
    """

    world_size, global_rank, is_global_zero = 1, 0, True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self._dtype = device, dtype
        precision = SimpleNamespace(state_dict=dict, load_state_dict=lambda _: None)
        self.strategy = SimpleNamespace(precision=precision, launcher=None)

    def launch(self) -> None:
        """Do nothing."""

    def barrier(self) -> None:
        """Do nothing."""

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def setup_module(self, module: nn.Module) -> nn.Module:
        return _Autocast(module.to(self.device), self.autocast)

    def setup_optimizers(self, optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimiser

    def to_device(self, value: Tensor) -> Tensor:
        if self.device.type == "cuda":
            value = value.pin_memory()  # from other memory, the copy waits for the GPU's earlier work
        return value.to(self.device, non_blocking=True)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_backward_sync(self, module: nn.Module, enabled: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def all_reduce(self, value: Value, reduce_op: str = "mean") -> Value:
        return value

    def broadcast(self, value: Value, src: int = 0) -> Value:
        return value

    def clip_gradients(self, module: nn.Module, optimiser: Any, max_norm: float, error_if_nonfinite: bool) -> Tensor:
        return nn.utils.clip_grad_norm_(module.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)


Fabric = OneProcess
"""The type that trainings are annotated with; Lightning's Fabric has the same methods."""


class _Autocast(nn.Module):
    """A network whose forward pass runs in a context."""

    def __init__(self, network: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.network, self._context = network, context

    def forward(self, *inputs: Any) -> Any:
        with self._context():
            return self.network(*inputs)

"""SIGTERM and SIGUSR1, with which SLURM and others announce that a training must stop after a checkpoint."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import torch

from voxmim.training.one_process import Fabric

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopSignal:
    """Records a signal instead of ending the process, while its block runs.

    Attributes:
        received: the number of the signal, or 0.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.received = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # handlers cannot be set in others
            self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def anywhere(self) -> int:
        """The signal that this or another process has received, or 0; all processes must call this."""
        if self._fabric.world_size > 1:
            own = torch.tensor(float(self.received), device=self._fabric.device)
            total = float(self._fabric.all_reduce(own, reduce_op="sum"))
            self.received = self.received or (int(signal.SIGTERM) if total else 0)
        return self.received

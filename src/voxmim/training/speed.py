"""The time and memory of a training, written to run.json."""

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from voxmim.training.one_process import Fabric
from voxmim.training.run import Run

WARM_UP = 2  # steps that are not counted, because they allocate memory and select kernels


class Speed:
    """Times of one training; `spent` are the seconds before it was resumed."""

    def __init__(self, network: nn.Module, fabric: Fabric, spent: float) -> None:
        self._network, self._fabric = network, fabric
        self._seconds: dict[str, list[float]] = {"step": [], "validation": [], "checkpoint": []}
        self._began = time.monotonic() - spent
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(fabric.device)

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def timed(self, what: str, count: int = 1) -> Iterator[None]:
        """Measure the time of the block, which does something `count` times."""
        began = time.monotonic()
        yield
        self._seconds[what] += count * [(time.monotonic() - began) / count]

    def write(self, run: Run) -> None:
        """Add ``speed`` to run.json: seconds (median of steps, mean of others), parameters, peak memory in bytes."""
        on_gpu = self._fabric.device.type == "cuda"
        steps = self._seconds["step"][WARM_UP:] or self._seconds["step"]
        if not steps:
            return
        run.about["speed"] = {
            "step_seconds": statistics.median(steps),
            "validation_seconds": statistics.fmean(self._seconds["validation"] or [0.0]),
            "checkpoint_seconds": statistics.fmean(self._seconds["checkpoint"] or [0.0]),
            "parameters": _count(self._network),
            "encoder_parameters": _count(getattr(self._network, "encoder", None)),
            "memory": torch.cuda.max_memory_allocated(self._fabric.device) if on_gpu else _peak_memory(),
            "on_gpu": on_gpu,
        }
        run.write_about()


def _count(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters()) if isinstance(network, nn.Module) else 0


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in kB

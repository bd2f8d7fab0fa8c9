"""Shared measurements of the benchmarks: alternating rounds, peak memory, peak FLOP/s, and the table."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from voxmim.report.machine import machine
from voxmim.workers import keep_memory, return_memory

Work = Callable[[], object]


@dataclass
class Report:
    """Rows of a table: ratios of two sides, and single values."""

    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    _printed: int = 0

    def ratio(self, row: str, theirs: list[float], ours: list[float], note: str = "") -> None:
        """Add a speedup (theirs / ours), from the seconds of each round."""
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        self.ratios[row] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        seconds = {"theirs_seconds": statistics.median(theirs), "ours_seconds": statistics.median(ours)}
        self.figures[row] = {**self.ratios[row], **seconds, "note": note}

    def figure(self, row: str, value: float, unit: str, note: str = "") -> None:
        """Add a single value."""
        self.figures[row] = {"value": value, "unit": unit, "note": note}

    def table(self, name: str) -> str:
        """Markdown table of the rows added since the last table."""
        lines = [f"\n### {name}\n", "| row | ratio (min to max) | theirs | ours | |", "|---|---|---:|---:|---|"]
        for row, figure in list(self.figures.items())[self._printed :]:
            if "value" in figure:
                lines.append(f"| {row} | | | {figure['value']:.4g} {figure['unit']} | {figure['note']} |")
                continue
            sides = " | ".join(f"{1000 * figure[side]:.4g} ms" for side in ("theirs_seconds", "ours_seconds"))
            ratio = f"**{figure['median']:.2f}** ({figure['min']:.2f} to {figure['max']:.2f})"
            lines.append(f"| {row} | {ratio} | {sides} | {figure['note']} |")
        self._printed = len(self.figures)
        return "\n".join([*lines, "", machine()])

    def as_json(self) -> dict[str, Any]:
        """The contents of the file written by ``--json``."""
        return {"ratios": self.ratios, "figures": self.figures, "machine": machine()}


def alternate(
    sides: Mapping[str, Work], rounds: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each side in each round; every round runs all sides once."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, work in sides.items():
            synchronize()
            start = clock()
            work()
            synchronize()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def default_malloc(work: Work) -> Work:
    """Run the work with glibc's default malloc settings, which voxmim's commands change (`keep_memory`)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return work

    def run() -> object:
        # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD at the values that glibc's dynamic adjustment reaches, and M_MMAP_MAX
        for option, value in ((-3, 2**25), (-1, 2**26), (-4, 2**16)):
            libc.mallopt(option, value)
        try:
            return work()
        finally:
            keep_memory()

    return run


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(work: Work) -> float:
    """Peak memory of the work in GiB, above that before it; on a GPU, the peak of all allocated memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30
    return_memory()  # otherwise the work could reuse freed memory, which would not be counted
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**20


def resident_memory() -> float:
    """Resident memory of this process in GiB."""
    return _status("VmRSS") / 2**20


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def bf16_flops(device: str = "cpu", size: int = 2048) -> float:
    """FLOP/s of a product of two bfloat16 matrices, best of five."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = alternate({"product": lambda: matrix @ matrix}, 5)["product"]
    return 2 * size**3 / min(seconds)


def count_flops(work: Work) -> int:
    """Floating-point operations of matrix products, convolutions and attention, as counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def training_step(
    network: torch.nn.Module, optimiser: Any, loss: Callable[[], torch.Tensor], dtype: torch.dtype = torch.float32
) -> Work:
    """A training step with the forward pass in the given precision."""
    device = next(network.parameters()).device.type

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step

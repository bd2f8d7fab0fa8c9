"""What all benchmarks measure with: rounds that alternate, peak memory, the machine's own rate, one table."""

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
    """The rows of a table: ratios of two sides, and plain figures."""

    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    _printed: int = 0

    def ratio(self, row: str, theirs: list[float], ours: list[float], note: str = "") -> None:
        """Add how many times as fast we were, from the seconds of each round."""
        found = [a / b for a, b in zip(theirs, ours, strict=True)]
        self.ratios[row] = {"median": statistics.median(found), "min": min(found), "max": max(found)}
        seconds = {"theirs_seconds": statistics.median(theirs), "ours_seconds": statistics.median(ours)}
        self.figures[row] = {**self.ratios[row], **seconds, "note": note}

    def figure(self, row: str, value: float, unit: str, note: str = "") -> None:
        """Add a figure that has no other side."""
        self.figures[row] = {"value": value, "unit": unit, "note": note}

    def table(self, name: str) -> str:
        """The rows since the last table, in Markdown."""
        lines = [f"\n### {name}\n", "| row | ratio (min to max) | theirs | ours | |", "|---|---|---:|---:|---|"]
        for row, found in list(self.figures.items())[self._printed :]:
            if "value" in found:
                lines.append(f"| {row} | | | {found['value']:.4g} {found['unit']} | {found['note']} |")
                continue
            sides = " | ".join(f"{1000 * found[side]:.4g} ms" for side in ("theirs_seconds", "ours_seconds"))
            ratio = f"**{found['median']:.2f}** ({found['min']:.2f} to {found['max']:.2f})"
            lines.append(f"| {row} | {ratio} | {sides} | {found['note']} |")
        self._printed = len(self.figures)
        return "\n".join([*lines, "", machine()])

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        return {"ratios": self.ratios, "figures": self.figures, "machine": machine()}


def alternate(
    sides: Mapping[str, Work], rounds: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """The seconds of each side in each round; all sides take their turn in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, work in sides.items():
            synchronize()
            began = clock()
            work()
            synchronize()
            if turn >= warm_up:
                seconds[name].append(clock() - began)
    return seconds


def as_usual(work: Work) -> Work:
    """The work of the other side: with glibc's own treatment of freed memory, which voxmim's commands change."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return work

    def run() -> object:
        for option, value in ((-3, 2**25), (-1, 2**26), (-4, 2**16)):  # where its thresholds end by themselves
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
    """GiB that the work takes at its peak, above what was held before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30
    return_memory()  # memory kept from before would hide what the work takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**20


def resident() -> float:
    """GiB that this process holds."""
    return _status("VmRSS") / 2**20


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def bf16_rate(device: str = "cpu", size: int = 2048) -> float:
    """Operations a second of a product of two bfloat16 matrices, the best of five."""
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = alternate({"product": lambda: one @ one}, 5)["product"]
    return 2 * size**3 / min(seconds)


def operations(work: Work) -> int:
    """Operations of the products, convolutions and attention of the work, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def training_step(
    network: torch.nn.Module, optimiser: Any, loss: Callable[[], torch.Tensor], dtype: torch.dtype = torch.float32
) -> Work:
    """One optimiser step; the forward pass in the given precision."""
    device = next(network.parameters()).device.type

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = loss()
        found.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step

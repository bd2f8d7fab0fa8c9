"""Speedup with more cores: prepare with several processes, and a pre-training step with several threads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.prepare import SPACING, make_scans
from benchmarks.step import CASES, our_step
from benchmarks.timing import Report, Work, alternate
from voxmim import api
from voxmim.networks.vit import ViTSettings
from voxmim.pretext.mae import MAESettings
from voxmim.workers import cores


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Compare one process or thread with one per core."""
    many = 2 if smoke else cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scans").mkdir()
        make_scans(folder / "scans", 2 if smoke else 48, (64, 64, 40) if smoke else (256, 256, 150))
        stores = iter(range(100))

        def run(workers: int) -> Work:
            return lambda: api.prepare(
                folder / "scans", folder / f"store_{next(stores)}", SPACING, "ct", workers=workers, quiet=True
            )

        seconds = alternate({"one": run(1), "many": run(many)}, 1, warm_up=0)
        note = "whole runs, including the start of the processes"
        report.ratio(f"prepare, {many} processes against 1", seconds["one"], seconds["many"], note)

    vit = ViTSettings((16, 16, 16), 48, 1, 2) if smoke else ViTSettings()
    volume, seeds = torch.rand(4, 1, *((32,) * 3 if smoke else (96,) * 3)), torch.arange(4)
    step = our_step(CASES[0], MAESettings(), vit, volume, seeds)

    def threads(count: int) -> Work:
        def work() -> None:
            torch.set_num_threads(count)
            step()

        return work

    before = torch.get_num_threads()
    seconds = alternate({"one": threads(1), "many": threads(many)}, rounds)
    torch.set_num_threads(before)
    report.ratio(f"MAE step, {many} threads against 1", seconds["one"], seconds["many"], "batch 4")

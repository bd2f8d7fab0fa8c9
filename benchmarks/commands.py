"""Whole commands on a small store: startup, waiting for crops, report, and the fraction of time spent training."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import Report
from voxmim import api

TOY = ["--steps", "4", "--set", "pretrain.validate_every=2", "--set", "finetune.validate_every=2"]


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Pre-train and fine-tune with the recipe tiny, and run a few steps of the paper's ViT-B."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = api.phantom(folder / "source", cases=4 if smoke else 24)
        api.prepare(source, folder / "store", spacing=(12.0,) * 3 if smoke else (4.0,) * 3, workers=1, quiet=True)
        size = TOY if smoke else []
        commands = {
            "pretrain tiny": ["pretrain", "--recipe", "tiny", *size],
            "finetune tiny": ["finetune", "--recipe", "tiny", *(size or ["--steps", "300"])],
        }
        if smoke:
            del commands["finetune tiny"]
        else:
            vit_b = ["--recipe", "mae-btcv", "--steps", "10", "--batch", "4", "--precision", "auto"]
            commands["pretrain ViT-B"] = ["pretrain", *vit_b, "--set", "pretrain.checkpoint_every=1000"]
        for row, command in commands.items():
            repeats = 1 if smoke or row == "pretrain ViT-B" else max(1, rounds - 3)
            runs = [time_command(command, folder / "store", folder / f"{row} {i}") for i in range(repeats)]
            median = {part: statistics.median(times[part] for times in runs) for part in runs[0]}
            whole = median["whole"]
            report.figure(f"{row}, whole command", whole, "s", f"median of {repeats}")
            report.figure(f"{row}, start to the first step", median["first_step"], "s")
            report.figure(f"{row}, steps wait for crops", 100 * median["waiting"] / whole, "%", "of the command")
            if row != "pretrain ViT-B":
                report.figure(f"{row}, page", median["page"], "s", "including updates during training")
                report.figure(
                    f"{row}, forward, backward, optimiser", 100 * median["steps"] / whole, "%", "of the command"
                )


def time_command(command: list[str], store: Path, out: Path) -> dict[str, float]:
    """Run a command in a new process; returns the seconds of each part and of the whole."""
    name, *options = command
    start = time.time()
    call = [sys.executable, "-m", "benchmarks.timeline", str(start), name, str(store), str(out), *options]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    whole = time.time() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(call)} failed: {done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": whole}

"""The loop that both trainings share: steps, checkpoints, validation, metrics, progress.

A step's crops, masks, augmentation and dropped paths follow from the seed and the step's number alone. Nothing but
weights, optimiser state and the number of the step has to be kept for a resumed run to go on exactly.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from voxmim.crops import Batch
from voxmim.errors import TrainingError
from voxmim.settings import Recipe, Training
from voxmim.training.optimiser import learning_rate, make_optimiser
from voxmim.training.run import MetricsFile, Run

for _name in ("lightning.fabric", "lightning.pytorch"):  # Lightning greets through whichever was imported last
    logging.getLogger(_name).setLevel(logging.WARNING)
PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}


@dataclass
class Job:
    """What one training does; the loop does the rest.

    Attributes:
        title: in front of the progress bar.
        network: what is trained.
        training: its settings.
        betas: of AdamW.
        batches: gives this process's batches from a step on.
        loss: the loss of one batch at one step, through the given (possibly wrapped) network.
        validate: figures by name, on fixed cases with fixed masks; run on every process.
        columns: the names of those figures.
        better: the figure that tells the best step (higher is better), or None.
        save: writes the weights that later commands load; called when `better` improves, or at the end without it.
        watch: told a validated row of metrics, what to warn of, or nothing; said once on the console.
    """

    title: str
    network: nn.Module
    training: Training
    betas: tuple[float, float]
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[nn.Module, Batch, int], Tensor]
    validate: Callable[[int], dict[str, float]]
    columns: list[str]
    better: str | None
    save: Callable[[int], None]
    watch: Callable[[dict[str, float]], str] = lambda _: ""


def make_fabric(recipe: Recipe) -> Fabric:
    """Set up devices and precision; several devices are started by the caller's `launch`."""
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and recipe.precision == "16":
        raise TrainingError("precision 16 needs a GPU, and none was found; take --precision bf16 or 32.")
    return Fabric(accelerator=accelerator, devices=recipe.devices, precision=PRECISIONS[recipe.precision])  # type: ignore[arg-type]


def train(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
    """Train from the last checkpoint, or from the start, to the last step.

    Raises:
        TrainingError: the loss is not finite; names the step and the cases.
    """
    training = job.training
    optimiser: torch.optim.Optimizer = make_optimiser(job.network, training, job.betas)
    state = run.load_checkpoint()
    first, best = 0, -math.inf
    if state is not None:
        job.network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first, best = int(state["step"]), float(state["best"])
    network, optimiser = fabric.setup(job.network, optimiser)
    metrics = (
        MetricsFile(run, ["step", "seconds", "lr", "loss", *job.columns], first) if fabric.is_global_zero else None
    )
    before = run.metrics()[-1]["seconds"] if first and run.metrics() else 0.0
    began = time.monotonic() - before

    def keep(step: int) -> None:
        if fabric.is_global_zero:
            run.save_checkpoint(
                {"network": job.network.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "best": best}
            )

    with _progress(fabric, job.title, first, training.steps) as progress:
        network.train()
        for step, batch in enumerate(job.batches(first), start=first):
            torch.manual_seed(seed * 1_000_003 + step * 1009 + fabric.global_rank)
            rate = learning_rate(step, training)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            loss = job.loss(network, batch, step)
            value = float(cast(Tensor, fabric.all_reduce(loss.detach(), reduce_op="mean")))
            if not math.isfinite(value):
                raise TrainingError(
                    f"{run.path}: the loss is {value} at step {step + 1}, on {', '.join(sorted(set(batch.names)))}; "
                    "look at these scans, or lower --lr."
                )
            fabric.backward(loss)
            if training.clip > 0:
                fabric.clip_gradients(network, optimiser, max_norm=training.clip, error_if_nonfinite=False)
            optimiser.step()
            optimiser.zero_grad()

            done = step + 1
            row = {"step": done, "lr": rate, "loss": value}
            if done % training.validate_every == 0 or done == training.steps:
                network.eval()
                row |= job.validate(done)
                network.train()
                progress.warn(job.watch(row))
                if job.better and row[job.better] > best:
                    best = row[job.better]
                    if fabric.is_global_zero:
                        job.save(done)
            if metrics is not None:
                metrics.add({**row, "seconds": round(time.monotonic() - began, 2)})
            if done % training.checkpoint_every == 0 or done == training.steps:
                if job.better is None and fabric.is_global_zero:
                    job.save(done)
                keep(done)
            progress.show(row)
    if metrics is not None:
        metrics.close()
    fabric.barrier()


class _progress:
    """A progress bar with the time left and the newest figures, on the first process alone."""

    def __init__(self, fabric: Fabric, title: str, first: int, steps: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            disable=not fabric.is_global_zero,
        )
        self._task = self._bar.add_task(title, completed=first, total=steps, figures="")
        self._seen: dict[str, float] = {}
        self._warned = False

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def warn(self, text: str) -> None:
        """Say it above the bar, the first time."""
        if text and not self._warned and not self._bar.disable:
            self._bar.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
            self._warned = True

    def show(self, row: dict[str, Any]) -> None:
        """Move the bar, with the newest figures."""
        self._seen |= {key: value for key, value in row.items() if key in ("loss", "val_loss", "val_dice")}
        figures = "  ".join(f"{key} {value:.4f}" for key, value in self._seen.items())
        self._bar.update(self._task, completed=row["step"], figures=figures)

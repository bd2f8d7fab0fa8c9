"""The loop that both trainings share: steps, checkpoints, validation, metrics, progress.

A step's crops, masks, augmentation and dropped paths follow from the seed and the step's number alone. Nothing but
weights, optimiser state and the number of the step has to be kept for a resumed run to go on exactly.
"""

from __future__ import annotations

import math
import time

from lightning.fabric import Fabric

from voxmim.training.processes import make_fabric, shared, together
from voxmim.training.progress import TrainingBar
from voxmim.training.run import MetricsFile, Run
from voxmim.training.step import Job, Stepper

__all__ = ["Job", "make_fabric", "train"]


def train(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
    """Train from the last checkpoint, or from the start, to the last step.

    Raises:
        TrainingError: the loss is not finite; names the step, the files and where it arose.
    """
    with together(fabric):
        _train(fabric, run, job, seed)
        fabric.barrier()


def _train(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
    training, leads = job.training, fabric.is_global_zero
    state = run.load_checkpoint()
    first, best = (0, -math.inf) if state is None else (int(state["step"]), float(state["best"]))
    stepper = Stepper(fabric, job, seed, str(run.path), state)
    metrics = MetricsFile(run, ["step", "seconds", "lr", "loss", *job.columns], first) if leads else None
    rows = run.metrics() if leads else []
    began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    stream = job.batches(first)
    with TrainingBar(job.title, first, training.steps, leads) as bar:
        for step in range(first, training.steps):
            rate, loss = stepper.step(shared(fabric, lambda: next(stream)), step)
            done = step + 1
            row = {"step": done, "lr": rate, "loss": loss}
            validates = done % training.validate_every == 0 or done == training.steps
            keeps = done % training.checkpoint_every == 0 or done == training.steps
            if validates or keeps:
                with stepper.settled():
                    improves = keeps and job.better is None
                    if validates:
                        row |= job.validate(done)
                        bar.warn(job.watch(row))
                        if job.better and row[job.better] > best:
                            best, improves = row[job.better], True
                    if improves and leads:
                        job.save(done)
            if metrics is not None:
                metrics.add({**row, "seconds": round(time.monotonic() - began, 2)})
            if keeps:
                whole = stepper.state() | {"step": done, "best": best}
                if leads:
                    run.save_checkpoint(whole)
            bar.show(row)
    if metrics is not None:
        metrics.close()

"""The loop that both trainings share: steps, checkpoints, validation, metrics, progress.

A step's crops, masks, augmentation and dropped paths follow from the seed and the step's number alone. Nothing but
weights, optimiser state and the number of the step has to be kept for a resumed run to go on exactly.
"""

from __future__ import annotations

import math
import time

from lightning.fabric import Fabric

from voxmim.store.crops import Batch
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
    training, damage, leads = job.training, job.damage, fabric.is_global_zero
    state = run.load_checkpoint()
    first, best = (0, -math.inf) if state is None else (int(state["step"]), float(state["best"]))
    damage.restore(run, {} if state is None else state.get("damaged", {}))
    stepper = Stepper(fabric, job, seed, str(run.path), state)
    metrics = MetricsFile(run, ["step", "seconds", "lr", "loss", *job.columns], first) if leads else None
    rows = run.metrics() if leads else []
    began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    stream = job.batches(first)

    def read() -> Batch:
        batch = next(stream)
        damage.refuse(run)
        return batch

    with TrainingBar(job.title, first, training.steps, leads) as bar:
        for step in range(first, training.steps):
            rate, loss = stepper.step(shared(fabric, read), step)
            done = step + 1
            row = {"step": done, "lr": rate, "loss": loss}
            validates = done % training.validate_every == 0 or done == training.steps
            keeps = done % training.checkpoint_every == 0 or done == training.steps
            if validates or keeps:
                with stepper.settled():
                    improves = keeps and job.better is None
                    if validates:
                        held = damage.held_left()
                        figures = job.validate(done)
                        damage.meet(fabric)
                        shared(fabric, lambda: damage.refuse(run))
                        row |= figures
                        best = best if damage.held_left() == held else -math.inf
                        bar.warn(job.watch(row))
                        if job.better and row[job.better] > best:
                            best, improves = row[job.better], True
                    if improves and leads:
                        job.save(done)
            if metrics is not None:
                metrics.add({**row, "seconds": round(time.monotonic() - began, 2)})
            if keeps:
                damage.meet(fabric)
                whole = stepper.state() | {"step": done, "best": best, "damaged": dict(damage.found)}
                if leads:
                    run.save_checkpoint(whole)
            for line in damage.news(run, done) if leads else []:
                bar.say(line)
            bar.show(row)
    if metrics is not None:
        metrics.close()

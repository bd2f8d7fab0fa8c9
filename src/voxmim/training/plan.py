"""What a training would take, from a trial of some of its steps, before anyone waits for a week."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import nn

from voxmim.recipe import Recipe
from voxmim.store.format import Store
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.processes import shared, together
from voxmim.training.run import CHECKPOINT, Run
from voxmim.training.step import Job, Stepper

WARM_UP = 2  # steps that are not counted
STEPS = 10  # steps that are, if they are done in time
PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Plan:
    """What was found; sizes in bytes, times in seconds.

    Attributes:
        encoder_parameters: of the encoder.
        parameters: of all that is trained.
        memory: the most that a process held: of the GPU where there is one, else of all it takes.
        on_gpu: whether that is the GPU's.
        crops: read at a step, over all processes.
        steps: of the whole training.
        step_seconds: one step, reading of its crops included.
        validation_seconds: one validation.
        checkpoint_seconds: one checkpoint, with the weights beside it.
        seconds: the whole training, with its validations and checkpoints.
        store_bytes: the store on disk.
        run_bytes: what one checkpoint and the weights beside it take.
    """

    encoder_parameters: int
    parameters: int
    memory: int
    on_gpu: bool
    crops: int
    steps: int
    step_seconds: float
    validation_seconds: float
    checkpoint_seconds: float
    seconds: float
    store_bytes: int
    run_bytes: int

    def rows(self) -> list[list[str]]:
        """What was found, as a table of words."""
        memory = "GPU memory" if self.on_gpu else "memory"
        return [
            ["parameters", f"{self.parameters:,}, of which the encoder has {self.encoder_parameters:,}"],
            [f"{memory} of a process", f"{self.memory / 1e9:.2f} GB"],
            ["speed", f"{1 / self.step_seconds:.3g} steps/s, {self.crops / self.step_seconds:.3g} crops/s"],
            ["a validation", f"{self.validation_seconds:.2f} s"],
            ["a checkpoint", f"{self.checkpoint_seconds:.2f} s, {self.run_bytes / 1e6:.1f} MB with the weights"],
            ["hours to the end", f"{self.seconds / 3600:.2f}"],
            ["the store on disk", f"{self.store_bytes / 1e9:.3f} GB"],
        ]


def plan(store: Store, recipe: Recipe, kind: str = "pretrain", labels: str | None = None) -> Plan:
    """Try a training out in a folder that is deleted afterwards.

    Args:
        store: of the scans.
        recipe: the settings.
        kind: ``pretrain``, or ``finetune`` from scratch.
        labels: of a fine-tuning, labelled cases to use.

    Raises:
        VoxmimError: whatever the training itself would raise in its first steps.
    """
    found: list[Plan] = []

    def act(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
        with together(fabric):
            found.append(_trial(fabric, run, job, seed, store))
            fabric.barrier()

    with tempfile.TemporaryDirectory(prefix="voxmim-plan-") as folder:
        if kind == "pretrain":
            pretrain(store, Path(folder) / "run", recipe, act=act)
        else:
            finetune(store, Path(folder) / "run", recipe, labels=labels, act=act)
    return found[0]


def _trial(fabric: Fabric, run: Run, job: Job, seed: int, store: Store) -> Plan:
    training = job.training
    on_gpu = fabric.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(fabric.device)
    encoder = job.network.encoder
    assert isinstance(encoder, nn.Module)
    parameters, of_encoder = _count(job.network), _count(encoder)
    stepper = Stepper(fabric, job, seed, str(run.path))
    stream, crops, times = job.batches(0), 0, []
    began = time.monotonic()
    for step in range(min(WARM_UP + STEPS, training.steps)):
        before = time.monotonic()
        batch = shared(fabric, lambda: next(stream))
        crops = len(batch.image) * fabric.world_size
        stepper.step(batch, step)
        times.append(time.monotonic() - before)
        if fabric.broadcast(time.monotonic() - began) > PATIENCE:
            break
    counted = times[WARM_UP:] or times[-1:]
    step_seconds = sum(counted) / len(counted)

    before = time.monotonic()
    with stepper.settled():
        job.validate(training.steps)
        validation_seconds = time.monotonic() - before
        before = time.monotonic()
        if fabric.is_global_zero:
            job.save(training.steps)
    state = stepper.state()
    if fabric.is_global_zero:
        run.save_checkpoint(state)
    checkpoint_seconds = time.monotonic() - before
    written = [run.path / CHECKPOINT, *run.path.glob("*.safetensors")]
    validations = -(-training.steps // training.validate_every)
    checkpoints = -(-training.steps // training.checkpoint_every)
    return Plan(
        encoder_parameters=of_encoder,
        parameters=parameters,
        memory=torch.cuda.max_memory_allocated(fabric.device) if on_gpu else _peak_memory(),
        on_gpu=on_gpu,
        crops=crops,
        steps=training.steps,
        step_seconds=step_seconds,
        validation_seconds=validation_seconds,
        checkpoint_seconds=checkpoint_seconds,
        seconds=training.steps * step_seconds + validations * validation_seconds + checkpoints * checkpoint_seconds,
        store_bytes=sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        run_bytes=sum(file.stat().st_size for file in written if file.is_file()),
    )


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in kB

"""The training loop: steps, validation, checkpoints, metrics, progress.

The crops, masks, augmentation and stochastic depth of a step are determined by the seed and the step, so a run resumes
exactly from weights, optimiser state and step.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from voxmim.errors import RunError, StoppedError
from voxmim.settings import Training
from voxmim.store.crops import Batch
from voxmim.training.damage import Damage
from voxmim.training.losses import Losses, between_reads
from voxmim.training.one_process import Fabric
from voxmim.training.optimiser import learning_rate, make_optimiser
from voxmim.training.processes import all_ranks, kill_children_on_error
from voxmim.training.progress import TrainingProgress
from voxmim.training.run import MetricsFile, Run
from voxmim.training.speed import Speed
from voxmim.training.stopping import StopSignal
from voxmim.training.validation import Validation

Watcher = Callable[[Run, Mapping[str, float], bool], None]
"""Called with the run, a row of metrics.csv, and whether the row has a validation that is not the last."""


@dataclass
class Job:
    """The parts of a training that differ between pre-training and fine-tuning."""

    title: str  # of the progress bar
    network: nn.Module
    training: Training
    betas: tuple[float, float]  # of AdamW
    batches: Callable[[int], Iterator[Batch]]  # of this process, from a step on
    loss: Callable[[nn.Module, Batch, int], Tensor]  # of the network (which may be wrapped) on a batch at a step
    validate: Callable[[int], dict[str, float]]  # figures by name after a step; every process calls it
    columns: list[str]  # the names of those figures
    save: Callable[[int], None]  # writes the weights that other commands load, after a step
    best: Validation | None = None  # `save` is called when it improved; without it, with each checkpoint
    warning: Callable[[dict[str, float]], str] = lambda _: ""  # about a row of metrics with a validation; printed once
    files: Callable[[list[str]], list[str]] = lambda names: names  # the image files of cases, for error messages
    compile: bool = False  # use torch.compile
    watcher: Watcher = lambda *_: None  # called by the first process after each row of metrics.csv
    damage: Damage = field(default_factory=Damage)  # the scans that could not be read
    average: AveragedModel | None = None  # the averaged weights during the training


def train(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
    """Train to the last step, from the last checkpoint if there is one.

    Raises:
        TrainingError: the loss is not finite, or too many scans cannot be read.
        RunError: the checkpoint does not fit, or the run folder cannot be written to.
    """
    with kill_children_on_error(fabric):
        _train(fabric, run, job, seed)
        fabric.barrier()


def _train(fabric: Fabric, run: Run, job: Job, seed: int) -> None:
    training, leads = job.training, fabric.is_global_zero
    if training.freeze == 1:
        cast(nn.Module, job.network.encoder).requires_grad_(False)
    network = fabric.setup_module(torch.compile(job.network) if job.compile else job.network)  # type: ignore[arg-type]
    optimiser: Any = fabric.setup_optimizers(make_optimiser(job.network, training, job.betas))
    decay = get_ema_multi_avg_fn(training.ema)
    job.average = AveragedModel(job.network, multi_avg_fn=decay) if training.ema else None
    state = run.load_checkpoint()
    if state is not None:
        _restore(run, job, optimiser, state)
        fabric.strategy.precision.load_state_dict(state.get("precision", {}))
    first = 0 if state is None else int(state["step"])
    speed = Speed(job.network, fabric, run.seconds())
    metrics = MetricsFile(run, ["step", "seconds", "lr", "loss", *job.columns], first) if leads else None
    stream = job.batches(first)
    network.train()
    with TrainingProgress(job.title, first, training.steps, leads) as bar, StopSignal(fabric) as stop:

        def read() -> Batch:
            batch = next(stream)
            job.damage.check(run, bar.say)
            return batch

        def report(row: dict[str, float], validated: bool = False) -> None:
            """Add a row to metrics.csv and show it; `validated`: it has a validation that is not the last."""
            if metrics is not None:
                with _writing(run, int(row["step"])):
                    row["seconds"] = round(speed.elapsed(), 2)
                    metrics.add(row)
                    job.watcher(run, row, validated)
            bar.update(row)

        def finish(done: int, row: dict[str, float]) -> None:
            """Validate, save and report after `done` steps, which may be 0 of 0."""
            validates = done % training.validate_every == 0 or done == training.steps
            checkpoints = done % training.checkpoint_every == 0 or done == training.steps
            if validates:
                with speed.timed("validation"), _evaluating(network, job):
                    row |= job.validate(done)
                bar.warn(job.warning(row))
            if leads and (checkpoints if job.best is None else validates and job.best.improved):
                with _evaluating(network, job), _writing(run, done):
                    job.save(done)
            report(row, validates and done < training.steps)
            stopped = stop.anywhere()
            if (checkpoints or stopped) and leads:
                with speed.timed("checkpoint"), _writing(run, done):
                    run.save_checkpoint(_state(fabric, job, optimiser) | {"step": done})
            if stopped:
                raise StoppedError(run.path, done, stopped)

        if training.steps == 0:
            finish(0, {"step": 0})
        losses = Losses(fabric, run.path, job.network, job.files)
        for steps in between_reads(first, training, fabric.device):
            with speed.timed("step", len(steps)):
                add_loss = partial(losses.add, check=len(steps) == 1)
                for step in steps:
                    batch = all_ranks(fabric, read)
                    _step(fabric, job, network, optimiser, batch, step, seed, add_loss)
                    if job.average is not None:
                        job.average.update_parameters(job.network)
                found = losses.read()
            rows = [
                {"step": step + 1, "lr": learning_rate(step, training), "loss": loss}
                for step, loss in zip(steps, found, strict=True)
            ]
            for row in rows[:-1]:
                report(row)
            finish(steps[-1] + 1, rows[-1])
    if metrics is not None:
        metrics.close()
        speed.write(run)


def _step(
    fabric: Fabric,
    job: Job,
    network: Any,
    optimiser: Any,
    batch: Batch,
    step: int,
    seed: int,
    add_loss: Callable[[int, Tensor, Batch], None],
) -> None:
    """One optimiser step on this process's crops; `add_loss` gets the loss before the weights change."""
    training = job.training
    torch.manual_seed(seed * 1_000_003 + step * 1009 + fabric.global_rank)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, training) * group["scale"]
    total = torch.zeros((), device=fabric.device)
    parts = _parts(batch, training.accumulate)
    for number, part in enumerate(parts, start=1):
        with fabric.no_backward_sync(network, enabled=number < len(parts)):
            loss = job.loss(network, part, step) / len(parts)
            total += loss.detach()
            fabric.backward(loss)
    add_loss(step, total, batch)
    if step < round(training.freeze * training.steps) and training.freeze < 1:
        for parameter in cast(nn.Module, job.network.encoder).parameters():
            parameter.grad = None
    if training.clip > 0:
        fabric.clip_gradients(network, optimiser, max_norm=training.clip, error_if_nonfinite=False)
    optimiser.step()
    optimiser.zero_grad()


def _parts(batch: Batch, count: int) -> list[Batch]:
    size = len(batch.image) // count
    return [Batch(*(values[at * size : (at + 1) * size] for values in batch)) for at in range(count)]  # type: ignore[arg-type]


@contextmanager
def _evaluating(network: nn.Module, job: Job) -> Iterator[None]:
    """Put the network in evaluation mode, with the averaged weights if there are any."""
    average = [] if job.average is None else job.average.module.parameters()
    pairs = list(zip(job.network.parameters(), average, strict=job.average is not None))
    for own, averaged in pairs:
        own.data, averaged.data = averaged.data, own.data
    network.eval()
    try:
        yield
    finally:
        network.train()
        for own, averaged in pairs:
            own.data, averaged.data = averaged.data, own.data


@contextmanager
def _writing(run: Run, step: int) -> Iterator[None]:
    """Raise RunError if the disk is full or not writable."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns an OSError into a RuntimeError
        reason = getattr(error, "strerror", None) or "the file could not be completed; is the disk full?"
        raise RunError(
            f"{run.path}: writing after step {step} failed ({reason}); free some space and continue with --resume."
        ) from error


def _state(fabric: Fabric, job: Job, optimiser: Any) -> dict[str, Any]:
    return {
        "network": job.network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
        "average": None if job.average is None else job.average.state_dict(),
        "best": None if job.best is None else job.best.state_dict(),
    }


def _restore(run: Run, job: Job, optimiser: Any, state: dict[str, Any]) -> None:
    try:
        job.network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        if job.average is not None:
            job.average.load_state_dict(state["average"])
        if job.best is not None:
            job.best.load_state_dict(state["best"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{run.path}: its checkpoint is of another version of voxmim and cannot be resumed; start anew."
        ) from error

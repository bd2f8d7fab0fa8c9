"""One step of a training: what is computed, on which devices, with which weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from voxmim.settings import Training
from voxmim.store.crops import Batch
from voxmim.training.average import Average
from voxmim.training.damage import Damage
from voxmim.training.nonfinite import explain, unexplained
from voxmim.training.optimiser import learning_rate, make_optimiser
from voxmim.training.processes import stop
from voxmim.training.sharding import gather, is_shared_out, share_optimiser, to_be_trained


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
        files: the image files of cases, for the error that names them.
        compile: translate the network into faster code.
        damage: the account of the scans that cannot be read any more.
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
    files: Callable[[list[str]], list[str]] = lambda names: names
    compile: bool = False
    damage: Damage = field(default_factory=Damage)


class Stepper:
    """A job's network, optimiser and average on their devices, from the start or from a checkpoint's state.

    Args:
        fabric: launched.
        job: what is trained.
        seed: of everything random.
        origin: the run, for errors.
        state: what `state` gave, or None.
    """

    def __init__(
        self, fabric: Fabric, job: Job, seed: int, origin: str = "", state: dict[str, Any] | None = None
    ) -> None:
        self._fabric, self._job, self._seed, self._origin = fabric, job, seed, origin
        training = job.training
        self._frozen = round(training.freeze * training.steps)
        if training.freeze == 1:  # never released, it need not even have gradients
            cast(nn.Module, job.network.encoder).requires_grad_(False)
        if state is not None:
            job.network.load_state_dict(state["network"])
        self._trained = to_be_trained(fabric, job.network)
        self.network = fabric.setup_module(torch.compile(self._trained) if job.compile else self._trained)  # type: ignore[arg-type]
        if is_shared_out(fabric):
            job.network.to(fabric.device)
        optimiser = fabric.setup_optimizers(make_optimiser(self._trained, training, job.betas))
        self._optimiser = cast(torch.optim.Optimizer, optimiser)
        self._average = Average(self._trained, training.ema) if training.ema else None
        if state is not None:
            parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
            self._optimiser.load_state_dict(share_optimiser(state["optimiser"], parameters))
            fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            if self._average:
                self._average.load(state["average"])
        self.network.train()

    def step(self, batch: Batch, step: int) -> tuple[float, float]:
        """Do step number `step` (from 0) on this process's crops; the learning rate, and the loss over all processes.

        Raises:
            TrainingError: the loss is not finite; the weights are as they were.
        """
        training, fabric = self._job.training, self._fabric
        self._draw_anew(step)
        rate = learning_rate(step, training)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        losses = []
        for number, part in enumerate(parts := _parts(batch, training.accumulate), start=1):
            with fabric.no_backward_sync(self.network, enabled=number < len(parts)):
                loss = self._job.loss(self.network, part, step) / len(parts)
                losses.append(loss.detach())
                fabric.backward(loss)
        own = torch.stack(losses).sum()
        value = float(cast(Tensor, fabric.all_reduce(own.clone(), reduce_op="mean")))
        if not math.isfinite(value):
            self._stop(batch, step, float(own), value)
        if step < self._frozen and training.freeze < 1:
            for parameter in cast(nn.Module, self._trained.encoder).parameters():
                parameter.grad = None
        if training.clip > 0:
            fabric.clip_gradients(self.network, self._optimiser, max_norm=training.clip, error_if_nonfinite=False)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._average:
            self._average.update()
        return rate, value

    @contextmanager
    def settled(self) -> Iterator[None]:
        """The job's network is whole, evaluates, and holds the weights that are to be validated and saved."""
        with self._average.in_place() if self._average else nullcontext():
            self._make_whole()
            self.network.eval()
            self._job.network.eval()
            try:
                yield
            finally:
                self.network.train()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps to go on exactly; every process must call this."""
        state = {
            "network": gather(self._trained.state_dict()),
            "optimiser": gather(self._optimiser.state_dict()),
            "precision": self._fabric.strategy.precision.state_dict(),
        }
        return state | ({"average": self._average.state()} if self._average else {})

    def _draw_anew(self, step: int) -> None:
        torch.manual_seed(self._seed * 1_000_003 + step * 1009 + self._fabric.global_rank)

    def _make_whole(self) -> None:
        if is_shared_out(self._fabric):
            self._job.network.load_state_dict(gather(self._trained.state_dict()))

    def _stop(self, batch: Batch, step: int, own: float, value: float) -> NoReturn:
        """Find out where the loss arose, which all processes do together, and end."""
        job, files = self._job, self._job.files(batch.names)
        self._make_whole()
        self._draw_anew(step)
        with self._fabric.autocast():
            found = explain(job.network.train(), batch, lambda network: job.loss(network, batch, step), files)
        said = (*found, unexplained(files)) if not math.isfinite(own) else ()
        stop(self._fabric, *said, about=f"{self._origin}: the loss is {value} at step {step + 1}: ")


def _parts(batch: Batch, count: int) -> list[Batch]:
    """A batch cut into so many equal parts."""
    size, parts = len(batch.image) // count, []
    for at in range(count):
        fields: list[Any] = [field[at * size : (at + 1) * size] for field in batch]
        parts.append(Batch(*fields))
    return parts

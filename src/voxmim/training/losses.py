"""The losses of a training's steps, which are read from a GPU for several steps at once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from voxmim.settings import Training
from voxmim.store.crops import Batch
from voxmim.training.nonfinite import raise_nonfinite
from voxmim.training.one_process import Fabric
from voxmim.training.speed import WARM_UP

READ_EVERY = 10  # steps on a GPU


def between_reads(first: int, training: Training, device: torch.device) -> Iterator[range]:
    """The steps from `first` on, divided where losses are read.

    Reading waits for the device. So on a GPU, losses are read every `READ_EVERY` steps and before validations and
    checkpoints. On a CPU, and in the first `WARM_UP` steps, which are not timed, they are read after each step.
    """
    warm = first + WARM_UP
    every = READ_EVERY if device.type == "cuda" else 1
    stops = (every, training.validate_every, training.checkpoint_every)
    for done in range(first + 1, training.steps + 1):
        if done <= warm or done == training.steps or any(done % stop == 0 for stop in stops):
            yield range(first, done)
            first = done


@dataclass
class Losses:
    """Collects the losses of some steps and checks that they are finite.

    Attributes:
        fabric: reduces the losses over all processes.
        path: run folder, for messages.
        network: network that is trained.
        files: the image files of cases, for messages.
    """

    fabric: Fabric
    path: Path
    network: nn.Module
    files: Callable[[list[str]], list[str]]
    _waiting: list[tuple[int, Tensor, Tensor, list[str]]] = field(default_factory=list)

    def add(self, step: int, loss: Tensor, batch: Batch, check: bool) -> None:
        """Add the loss of a step on this process's crops, a tensor without dimensions.

        With `check`, it is read at once, before the weights change, so that an error can tell whether they were finite.

        Raises:
            TrainingError: the loss is not finite.
        """
        loss = self.fabric.all_reduce(loss.clone(), reduce_op="mean")
        finite = torch.isfinite(batch.image).flatten(1).all(1)
        self._waiting.append((step, loss, finite, batch.names))
        if check:
            self._check(self.network)

    def read(self) -> list[float]:
        """The losses since the last call, averaged over all processes.

        Raises:
            TrainingError: one is not finite.
        """
        found = self._check(None)
        self._waiting.clear()
        return found

    def _check(self, network: nn.Module | None) -> list[float]:
        found: list[float] = torch.stack([loss for _, loss, *_ in self._waiting]).tolist()
        for value, (step, _, finite, names) in zip(found, self._waiting, strict=True):
            if not math.isfinite(value):
                what = f"{self.path}: the loss is {value} at step {step + 1}"
                raise_nonfinite(self.fabric, what, network, finite, self.files(names))
        return found

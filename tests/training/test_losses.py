"""The number of steps between reads of the loss."""

from __future__ import annotations

import torch

from voxmim.settings import Training
from voxmim.training.losses import READ_EVERY, between_reads
from voxmim.training.speed import WARM_UP


def steps_between(first: int, device: str, **changes: int) -> list[list[int]]:
    training = Training(**{"validate_every": 1000, "checkpoint_every": 1000, **changes})  # type: ignore[arg-type]
    return [list(steps) for steps in between_reads(first, training, torch.device(device))]


def test_a_cpu_reads_after_each_step() -> None:
    assert steps_between(2, "cpu", steps=5) == [[2], [3], [4]]


def test_a_gpu_reads_every_few_steps_and_after_the_last() -> None:
    reads = steps_between(0, "cuda", steps=READ_EVERY + 2)[WARM_UP:]
    assert reads == [list(range(WARM_UP, READ_EVERY)), [READ_EVERY, READ_EVERY + 1]]


def test_the_first_steps_on_a_gpu_are_timed_one_by_one() -> None:
    assert steps_between(3, "cuda", steps=9) == [[3], [4], [5, 6, 7, 8]]


def test_a_gpu_reads_before_a_validation_and_a_checkpoint() -> None:
    reads = steps_between(1, "cuda", steps=10, validate_every=4, checkpoint_every=7)
    assert reads == [[1], [2], [3], [4, 5, 6], [7], [8, 9]]

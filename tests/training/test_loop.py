"""The training loop on a small network; the trainings that use it have their own tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voxmim.errors import TrainingError
from voxmim.recipe import Recipe
from voxmim.settings import Training
from voxmim.store.crops import Batch
from voxmim.training import loop as loop_module
from voxmim.training.damage import Damage
from voxmim.training.loop import Job, train
from voxmim.training.losses import between_reads
from voxmim.training.optimiser import learning_rate
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run

BETAS = (0.9, 0.95)


class Stopped(Exception):
    """Stands for a kill."""


@dataclass
class Harness:
    """A network that is trained on numbered batches, and a record of the calls by the loop.

    Attributes:
        training: the settings.
        stop_at: the step (from 0) at which the loss raises `Stopped`.
        bad_at: the step at which the loss is NaN.
        better: the column that determines the best step.
        scores: the validation metrics after a step.
        damage: the scans that could not be read.
        requested: the first step of each request for batches.
        batches_seen: each step with the number of its batch and whether the network was training.
        saved: the steps at which weights were saved.
        validated: the steps that were validated, and whether the network was training.
    """

    training: Training
    stop_at: int | None = None
    bad_at: int | None = None
    better: str | None = None
    scores: Callable[[int], dict[str, float]] = lambda step: {"val": 1.0 / step}
    factor: float = 1.0
    damage: Damage = field(default_factory=Damage)
    requested: list[int] = field(default_factory=list)
    batches_seen: list[tuple[int, float, bool]] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    validated: list[tuple[int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.best, self.improved = -math.inf, False

    def batches(self, first: int) -> Iterator[Batch]:
        self.requested.append(first)
        for step in range(first, self.training.steps):
            image = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
            image[0, 0] = step
            names, present = [f"case_{step}", "case_a"], torch.ones(2, 1, dtype=torch.bool)
            yield Batch(image, torch.zeros(0), torch.zeros(0), names, present)

    def loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        self.batches_seen.append((step, float(batch.image[0, 0]), network.training))
        if step == self.stop_at:
            raise Stopped
        value = (network(batch.image) - torch.rand(2, 1)).square().mean() * self.factor
        return value * math.nan if step == self.bad_at else value

    def validate(self, step: int) -> dict[str, float]:
        self.validated.append((step, self.network.training))
        torch.rand(step)  # random numbers of validation must not change the training
        row = self.scores(step)
        self.improved = self.better is not None and row[self.better] > self.best
        if self.improved:
            self.best = row[str(self.better)]
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def run(self, path: Path) -> dict[str, Tensor]:
        """Train in a new folder or resume in an existing one; return the final weights."""
        recipe = Recipe(precision="32", pretrain=self.training)
        run = Run.open(path) if path.exists() else Run.new(path, "pretrain", recipe, {})
        job = Job("test", self.network, self.training, BETAS, self.batches, self.loss, self.validate, ["val"],
                  self.saved.append, self if self.better else None, damage=self.damage)  # fmt: skip
        train(make_fabric(recipe), run, job, seed=3)
        return self.network.state_dict()


def settings(**changes: Any) -> Training:
    return Training(**{"steps": 7, "lr": 0.05, "validate_every": 3, "checkpoint_every": 2, **changes})


def figures(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def test_metrics_have_a_row_per_step(tmp_path: Path) -> None:
    harness = Harness(settings())
    harness.run(tmp_path / "run")
    rows = Run.open(tmp_path / "run").metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["lr"] for row in rows] == [learning_rate(step, harness.training) for step in range(7)]
    assert {row["step"]: row["val"] for row in rows if "val" in row} == {3: 1 / 3, 6: 1 / 6, 7: 1 / 7}
    assert all(math.isfinite(row["loss"]) for row in rows)
    times = [row["seconds"] for row in rows]
    assert times == sorted(times)


def test_batches_are_used_in_order_with_the_network_in_training_mode(tmp_path: Path) -> None:
    harness = Harness(settings())
    harness.run(tmp_path / "run")
    assert harness.batches_seen == [(step, step, True) for step in range(7)]
    assert harness.validated == [(3, False), (6, False), (7, False)]


def test_the_steps_agree_with_a_plain_loop(tmp_path: Path) -> None:
    training = settings(clip=0.1, weight_decay=0.2)
    weights = Harness(training).run(tmp_path / "run")

    plain = Harness(training)
    matrices = [parameter for parameter in plain.network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in plain.network.parameters() if parameter.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}], betas=BETAS
    )
    losses = []
    plain.network.train()
    for step, batch in enumerate(plain.batches(0)):
        torch.manual_seed(3 * 1_000_003 + step * 1009)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, training)
        loss = plain.loss(plain.network, batch, step)
        losses.append(loss.item())
        loss.backward()
        nn.utils.clip_grad_norm_(plain.network.parameters(), 0.1)
        optimiser.step()
        optimiser.zero_grad()
    assert [row["loss"] for row in figures(tmp_path / "run")] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights, plain.network.state_dict())


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (0.0, math.inf)])
def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float, norm: float) -> None:
    norms = []

    def record(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        parts = [p.grad.norm() for group in optimiser.param_groups for p in group["params"]]
        norms.append(float(torch.stack(parts).norm()))

    def make(*arguments: Any) -> torch.optim.Optimizer:
        optimiser = original(*arguments)
        optimiser.register_step_pre_hook(record)
        return optimiser

    original = loop_module.make_optimiser
    monkeypatch.setattr(loop_module, "make_optimiser", make)
    Harness(settings(clip=clip), factor=1e4).run(tmp_path / "run")
    assert len(norms) == 7
    if clip:
        assert norms == pytest.approx([norm] * 7, rel=1e-4)
    else:
        assert min(norms) > 10


def test_a_loss_that_is_not_finite_stops_the_training_and_names_step_and_cases(tmp_path: Path) -> None:
    harness = Harness(settings(), bad_at=4)
    with pytest.raises(
        TrainingError,
        match=r"run: the loss is nan at step 5: crops and weights are finite; look at the scans case_4, case_a, or ",
    ):
        harness.run(tmp_path / "run")
    state = Run.open(tmp_path / "run").load_checkpoint()
    assert state is not None
    assert state["step"] == 4  # the checkpoint of the last finite step is kept
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["network"].values())
    assert [row["step"] for row in figures(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the losses of several steps together, as on a GPU."""
    monkeypatch.setattr(
        loop_module, "between_reads", lambda first, training, _: between_reads(first, training, torch.device("cuda"))
    )


def test_reading_losses_less_often_does_not_change_the_training(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected = Harness(settings(checkpoint_every=7)).run(tmp_path / "each")
    request.getfixturevalue("as_on_a_gpu")
    weights = Harness(settings(checkpoint_every=7)).run(tmp_path / "seldom")
    assert figures(tmp_path / "seldom") == figures(tmp_path / "each")
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_loss_that_is_read_later_names_its_own_step(tmp_path: Path) -> None:
    harness = Harness(settings(validate_every=7, checkpoint_every=7), bad_at=4)
    match = r"the loss is nan at step 5: the crops are finite; look at the scans case_4, case_a, or "
    with pytest.raises(TrainingError, match=match):
        harness.run(tmp_path / "run")


# 0 and 1: before the first checkpoint; 2 and 4: right after one; 6: at the last step
@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 4, 6])
def test_a_stopped_run_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    expected = Harness(settings(), better="val").run(tmp_path / "uninterrupted")

    with pytest.raises(Stopped):
        Harness(settings(), better="val", stop_at=stop_at).run(tmp_path / "stopped")
    resumed = Harness(settings(), better="val")
    with torch.no_grad():
        for parameter in resumed.network.parameters():
            parameter.mul_(1 if stop_at < 2 else 99)  # once there is a checkpoint, it replaces the network
    weights = resumed.run(tmp_path / "stopped")

    assert resumed.requested == [stop_at // 2 * 2]
    assert figures(tmp_path / "stopped") == figures(tmp_path / "uninterrupted")
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_a_run_may_be_stopped_repeatedly(tmp_path: Path) -> None:
    expected = Harness(settings()).run(tmp_path / "uninterrupted")
    for stop_at in (3, 3, 5):
        with pytest.raises(Stopped):
            Harness(settings(), stop_at=stop_at).run(tmp_path / "stopped")
    weights = Harness(settings()).run(tmp_path / "stopped")
    assert figures(tmp_path / "stopped") == figures(tmp_path / "uninterrupted")
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_a_finished_run_is_not_changed(tmp_path: Path) -> None:
    first = Harness(settings())
    expected = {name: tensor.clone() for name, tensor in first.run(tmp_path / "run").items()}
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    again = Harness(settings())
    weights = again.run(tmp_path / "run")
    assert (again.batches_seen, again.validated, again.saved) == ([], [], [])
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_without_a_score_weights_are_saved_with_every_checkpoint(tmp_path: Path) -> None:
    harness = Harness(settings())
    harness.run(tmp_path / "run")
    assert harness.saved == [2, 4, 6, 7]


def test_with_a_score_weights_are_saved_only_when_it_improves(tmp_path: Path) -> None:
    values = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.1, 5: 0.6, 6: 0.3, 7: 0.0}
    harness = Harness(settings(validate_every=1), better="val", scores=lambda step: {"val": values[step]})
    harness.run(tmp_path / "run")
    assert harness.saved == [1, 2, 5]


def test_the_best_score_is_known_after_a_stop(tmp_path: Path) -> None:
    values = {1: 0.2, 2: 0.7, 3: 0.5, 4: 0.1, 5: 0.6, 6: 0.3, 7: 0.8}

    def scores(step: int) -> dict[str, float]:
        return {"val": values[step]}

    with pytest.raises(Stopped):
        Harness(settings(validate_every=1), better="val", scores=scores, stop_at=3).run(tmp_path / "run")
    harness = Harness(settings(validate_every=1), better="val", scores=scores)
    harness.run(tmp_path / "run")
    assert harness.saved == [7]


def test_half_precision_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="precision 16 needs a GPU"):
        make_fabric(Recipe(precision="16"))

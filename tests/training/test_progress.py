"""Progress of a training in a log file; a signal writes a checkpoint."""

from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Tiny
from voxmim import api
from voxmim.console import CONSOLE
from voxmim.errors import StoppedError
from voxmim.training import progress
from voxmim.training.progress import TrainingProgress, progress_options
from voxmim.training.run import Run

SETTINGS = {"pretrain.steps": 6, "pretrain.validate_every": 3, "pretrain.checkpoint_every": 6}


def lines(capsys: pytest.CaptureFixture[str]) -> list[int]:
    return [int(step) for step in re.findall(r"step (\d+)/", capsys.readouterr().out)]


def run_through(steps: int, seconds: float, monkeypatch: pytest.MonkeyPatch, **row: float) -> None:
    """Simulate a training with steps of the given duration."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with TrainingProgress("training", 0, steps, visible=True) as shown:
        for step in range(1, steps + 1):
            now[0] += seconds
            shown.update({"step": step, "loss": 1 / step, **row})


def test_progress_is_printed_often_at_first_and_then_every_30_seconds(monkeypatch: Any, capsys: Any) -> None:
    run_through(1000, 10.0, monkeypatch)
    steps = lines(capsys)
    assert steps[:5] == [1, 2, 5, 8, 10]
    assert all(after - before <= 3 for before, after in itertools.pairwise(steps[1:]))
    assert steps[-1] == 1000


def test_a_short_training_prints_about_a_hundred_lines(monkeypatch: Any, capsys: Any) -> None:
    run_through(1000, 0.1, monkeypatch)
    assert 90 < len(lines(capsys)) < 120


def test_a_line_has_loss_validation_and_remaining_time(monkeypatch: Any, capsys: Any) -> None:
    run_through(2, 60.0, monkeypatch, val_loss=0.25)
    first, _ = capsys.readouterr().out.splitlines()
    assert first == "training: step 1/2  loss 1.0000  val_loss 0.2500  0:01:00 left"


def test_log_every_and_quiet_control_the_lines(monkeypatch: Any, capsys: Any) -> None:
    with progress_options(quiet=False, log_every=4):
        run_through(10, 100.0, monkeypatch)
    assert lines(capsys) == [4, 8, 10]
    with progress_options(quiet=True, log_every=4):
        run_through(10, 100.0, monkeypatch)
    assert lines(capsys) == []
    assert not CONSOLE.quiet


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.pretrain(tiny.store, tmp_path_factory.mktemp("uninterrupted") / "run", tiny.recipe, SETTINGS)


@pytest.mark.parametrize(("name", "step"), [("SIGUSR1", 2), ("SIGTERM", 6)])  # of 6 steps
def test_a_signal_writes_a_checkpoint_to_resume_from(
    tiny: Tiny, uninterrupted: Path, tmp_path: Any, monkeypatch: Any, name: str, step: int
) -> None:
    number = getattr(signal, name)
    update = TrainingProgress.update

    def killed(self: TrainingProgress, row: dict[str, Any]) -> None:
        update(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "update", killed)
        with pytest.raises(
            StoppedError, match=rf"run: stopped by {name} after step {step}, with a checkpoint"
        ) as stopped:
            api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, SETTINGS)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL
    path = api.pretrain(tiny.store, tmp_path / "run", resume=True)
    losses = [[row["loss"] for row in Run.open(folder).metrics()] for folder in (path, uninterrupted)]
    assert losses[0] == losses[1]
    assert [row["step"] for row in Run.open(path).metrics()] == [1, 2, 3, 4, 5, 6]

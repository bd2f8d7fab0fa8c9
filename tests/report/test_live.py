"""The page of a run during training."""

import json
import signal
from pathlib import Path

import pytest

from conftest import TinyRuns
from voxmim.errors import StoppedError
from voxmim.recipe import load_recipe
from voxmim.report import live, run_page
from voxmim.report.live import Watcher
from voxmim.report.page import Page
from voxmim.store.format import Store
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run


def test_the_page_is_updated_at_each_validation_except_the_last(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    watcher, updates = Watcher(), []

    def watch(run: Run, row: dict[str, float], validated: bool) -> None:
        watcher(run, row, validated)
        if validated:
            status = json.loads((run.path / "status.json").read_text())
            updates.append((status["step"], status["state"], sorted(file.name for file in run.path.glob("figures/*"))))

    pretrain(Store(tiny_runs.store), tmp_path / "run", load_recipe(tiny_runs.recipe), watcher=watch)
    figures = ["01-Reconstruction-of-case_4.png", "02-Reconstruction-of-case_5.png"]
    assert updates == [(3, "running", figures)]  # of six steps, validated every third


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError(Path("run"), 1, signal.SIGTERM)])
def test_a_run_stopped_before_its_first_validation_has_a_page_that_says_so(
    tiny_runs: TinyRuns, tmp_path: Path, error: BaseException
) -> None:
    def train() -> None:
        with Watcher() as watcher:

            def watch(run: Run, row: dict[str, float], validated: bool) -> None:
                watcher(run, row, validated)
                raise error

            pretrain(Store(tiny_runs.store), tmp_path / "run", load_recipe(tiny_runs.recipe), watcher=watch)

    with pytest.raises((KeyboardInterrupt, StoppedError)):
        train()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["step"], status["validation"]) == ("stopped", 1, None)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Stopped after step 1 of 6; --resume continues it." in page
    assert "It is to be trained for 6 steps" in page


def test_writing_the_page_takes_at_most_two_percent_of_the_time(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []

    def write(run: Run, running: bool) -> Page:
        written.append(now[0])
        now[0] += 2  # duration in seconds
        return Page("", [])

    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_page, "write_run_page", write)
    watcher, run = Watcher(), Run.open(tiny_runs.pretrain)
    for time in (100.0, 110.0, 201.0, 203.0):
        now[0] = time
        watcher(run, {"step": 1}, True)
    assert written == [100.0, 203.0]

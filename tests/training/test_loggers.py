"""Metrics, settings and pictures in TensorBoard, Weights & Biases and MLflow, without duplicates after a kill."""

import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import Tiny, TinyRuns
from processes import CONTEXT, wait_for
from voxmim import api, errors
from voxmim.training.loggers import LOGGERS, Loggers
from voxmim.training.run import Run

PICTURES = {"Reconstruction of case_4", "Reconstruction of case_5"}
Logged = tuple[list[tuple[int, float]], set[str], str]  # the losses by step, the pictures' names, the mask ratio


def tensorboard(run: Path) -> Logged:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ratio = "0.75" if b"mask/ratio" in content else ""
    return losses, set(events.Tags()["images"]), ratio


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline file: a header of 7 bytes, then blocks of 32 KiB of pieces (checksum, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (remaining := 32768 - at % 32768) < 7:
            at += remaining
            continue
        end = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little")
        record += data[at + 7 : end]
        if data[at + 6] in (1, 4):  # a complete record, or its last piece
            yield Record.FromString(record)
            record = b""
        at = end


def wandb(run: Path) -> Logged:
    losses, pictures, ratio = [], set(), ""
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for record in wandb_records(file):
            row = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
            if "loss" in row:
                losses.append((json.loads(row["trainer/global_step"]), json.loads(row["loss"])))
            pictures |= {key for key in row if key.startswith("Reconstruction")}
            for item in (*record.run.config.update, *record.config.update):
                if "mask" in (item.key, *item.nested_key):
                    ratio = str(json.loads(item.value_json)["ratio"])
    return losses, pictures, ratio


def mlflow(run: Path) -> Logged:
    client = pytest.importorskip("mlflow.tracking").MlflowClient((run / "mlruns").resolve().as_uri())
    state = json.loads((run / "loggers.json").read_text())["mlflow"]
    losses = [(point.step, point.value) for point in client.get_metric_history(state["id"], "loss")]
    pictures = {re.split("[+%]", Path(file.path).name)[0] for file in client.list_artifacts(state["id"], "images")}
    return losses, pictures, client.get_run(state["id"]).data.params["mask/ratio"]


READ: dict[str, Callable[[Path], Logged]] = {"wandb": wandb, "mlflow": mlflow}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "png")
    return file.getvalue()


def log(path: Path, name: str, steps: range, killed: bool = False) -> None:
    """Log some steps of a run as its training does, with a picture every third step; then finish, or be killed."""
    lines, run, loggers = (path / "all.csv").read_text().splitlines(keepends=True), Run.open(path), Loggers([name])
    for step in steps:
        (path / "metrics.csv").write_text("".join(lines[: step + 1]))
        loggers.add(run, run.metrics()[-1])
        if step % 3 == 0:
            loggers.pictures(step, [("Reconstruction of case_4", png())])
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    loggers.close("success")


@pytest.mark.parametrize("name", READ)
def test_after_a_kill_each_step_is_logged_once_in_order_with_pictures_and_settings(
    tiny_runs: TinyRuns, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after step 5, resumed from the checkpoint of step 4."""
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    run = shutil.copytree(tiny_runs.pretrain, tmp_path / "run")
    (run / "metrics.csv").rename(run / "all.csv")
    process = CONTEXT.Process(target=log, args=(run, name, range(1, 6), True))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    log(run, name, range(5, 7))
    if name == "wandb":  # its own process continues to write for a moment
        wait_for(lambda: wandb(run)[0] != [] and wandb(run)[1] != set())
    losses, pictures, ratio = READ[name](run)
    expected = {row["step"]: pytest.approx(row["loss"]) for row in Run.open(run).metrics()}
    steps = [step for step, _ in losses]
    if name == "wandb":  # its own process is killed too and loses unwritten rows
        assert steps[-1] == 6
        assert steps == sorted(set(steps))
    else:
        assert steps == [1, 2, 3, 4, 5, 6]
    assert losses == [(step, expected[step]) for step in steps]
    assert pictures == {"Reconstruction of case_4"}
    assert ratio == "0.75"


def test_a_training_that_is_killed_and_resumed_logs_each_step_once_with_pictures_and_settings(
    tiny: Tiny, tmp_path: Path, start_and_kill: Callable[..., None]
) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    start_and_kill(["pretrain", tiny.store, run, "--recipe", tiny.recipe, "--log", "tensorboard"], run, rows=3)
    time.sleep(1)  # TensorBoard reads files in the order of the timestamps in their names
    api.pretrain(tiny.store, run, resume=True, log=["tensorboard"])
    losses, pictures, ratio = tensorboard(run)
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in Run.open(run).metrics()]
    assert pictures == PICTURES
    assert ratio == "0.75"


class Recorder:
    """A logger that records its calls, and may fail."""

    version = "7"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.steps, self.pictures, self.settings, self.status = fails, [], [], [], ""

    def log_hyperparams(self, settings: dict[str, Any]) -> None:
        self.settings.append(settings["mask"]["ratio"])

    def log_metrics(self, row: dict[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("the server does not answer")
        self.steps.append(step)

    def finalize(self, status: str) -> None:
        self.status = status


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recorder]:
    """Return record(name, fails), which replaces a logger by a recorder that needs no package."""
    monkeypatch.setattr("voxmim.training.loggers.require", lambda *_: None)

    def make(name: str, fails: bool = False) -> Recorder:
        recorder = Recorder(fails)
        picture = lambda logger, title, image, step: logger.pictures.append((title, step))  # noqa: E731
        monkeypatch.setitem(LOGGERS, name, (lambda *_: recorder, picture))
        return recorder

    return make


def test_several_loggers_get_every_row_even_if_one_fails(
    tiny: Tiny, tmp_path: Path, record: Callable[..., Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = record("mlflow"), record("wandb", fails=True)
    run = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, log=["wandb", "mlflow"])
    assert good.steps == [1, 2, 3, 4, 5, 6]
    assert good.pictures == [(title, step) for step in (3, 6) for title in sorted(PICTURES)]
    assert (good.settings, good.status) == ([0.75], "success")
    assert (bad.steps, bad.status) == ([], "")
    message = "--log wandb stopped, the training goes on: the server does not answer"
    assert capsys.readouterr().err.count(message) == 1
    assert len(Run.open(run).metrics()) == 6


def test_a_logger_added_at_a_resume_gets_the_earlier_rows(
    tiny: Tiny, tmp_path: Path, record: Callable[..., Recorder], stop_before_step: Any
) -> None:
    with stop_before_step(5):
        api.pretrain(tiny.store, tmp_path / "run", tiny.recipe)
    late = record("mlflow")
    api.pretrain(tiny.store, tmp_path / "run", resume=True, log=["mlflow"])
    assert late.steps == [1, 2, 3, 4, 5, 6]


def test_a_failed_training_is_logged_as_failed(
    tiny: Tiny, tmp_path: Path, record: Callable[..., Recorder], stop_before_step: Any
) -> None:
    logger = record("mlflow")
    with stop_before_step(2):
        api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, log=["mlflow"])
    assert (logger.steps, logger.status) == ([1, 2], "failed")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_that_is_not_installed_is_refused_before_training(
    run_voxmim: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda package: None if package == name else True)
    status, _, error = run_voxmim("finetune", tmp_path / "no-store", tmp_path / "run", "--log", name)
    assert status == 2
    assert error == f"error: --log {name} needs {name}: run pip install 'voxmim[{name}]'.\n"
    with pytest.raises(errors.MissingPackageError):
        Loggers([name])

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

from voxmim.errors import RunError
from voxmim.recipe import Recipe, load_recipe
from voxmim.settings import Training
from voxmim.training.run import ABOUT, CHECKPOINT, METRICS, MetricsFile, Run

COLUMNS = ["step", "seconds", "lr", "loss", "val_loss"]


def new_run(path: Path, kind: str = "pretrain") -> Run:
    return Run.new(path, kind, Recipe(), {"store": "/some/store", "cases": 3})


# The folder


def test_a_run_is_opened_as_it_was_created(tmp_path: Path) -> None:
    recipe = Recipe(seed=5, crop=(32, 48, 64), pretrain=Training(lr=1.25e-4))
    Run.new(tmp_path / "deep" / "run", "finetune", recipe, {"store": "s", "cases": ["a", "b"], "init": None})
    run = Run.open(tmp_path / "deep" / "run")
    assert run.kind == "finetune"
    assert run.about == {"store": "s", "cases": ["a", "b"], "init": None, "kind": "finetune"}
    assert run.recipe() == recipe == load_recipe(run.path / "recipe.yaml")


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert new_run(tmp_path).path == tmp_path


@pytest.mark.parametrize("what", ["a run", "a file in it", "a file"])
def test_an_occupied_folder_is_refused_and_not_changed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run"
    if what == "a run":
        new_run(path)
    elif what == "a file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=r"run: there is something here already; add --resume .* another folder"):
        new_run(path, "finetune")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing: this is not a run folder"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"this is not a run folder \(no run\.json\)"):
        Run.open(tmp_path)


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    new_run(tmp_path, "pretrain")
    assert Run.open(tmp_path, "pretrain").kind == "pretrain"
    with pytest.raises(RunError, match="this run is a pretrain, but a finetune is needed here"):
        Run.open(tmp_path, "finetune")


@pytest.mark.parametrize("text", ["{", "{}", ""])
def test_a_damaged_run_is_named(tmp_path: Path, text: str) -> None:
    new_run(tmp_path)
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(RunError, match=r"run\.json: this file is damaged"):
        Run.open(tmp_path)


# The checkpoint


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.load_checkpoint() is None
    state = {"network": {"w": torch.randn(3, 2)}, "step": 7, "best": float("-inf")}
    run.save_checkpoint(state)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert (checkpoint["step"], checkpoint["best"]) == (7, float("-inf"))
    torch.testing.assert_close(checkpoint["network"]["w"], state["network"]["w"], rtol=0, atol=0)


def test_a_failed_checkpoint_keeps_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path)
    run.save_checkpoint({"step": 1})

    def half(state: object, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        run.save_checkpoint({"step": 2})
    assert run.load_checkpoint() == {"step": 1}
    assert sorted(os.listdir(tmp_path)) == sorted([ABOUT, CHECKPOINT, "recipe.yaml"])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.save_checkpoint({"weights": torch.randn(1000)})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"last\.ckpt: the checkpoint is damaged"):
        run.load_checkpoint()


# metrics.csv


def test_rows_are_written_as_soon_as_they_are_added(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.metrics() == []
    metrics = MetricsFile(run, COLUMNS, 0)
    metrics.add({"step": 1, "lr": 1e-05, "loss": 1 / 3, "seconds": 0.5})
    metrics.add({"step": 2, "lr": 2e-05, "loss": 0.0, "seconds": 1.0, "val_loss": 0.125})
    expected = [
        {"step": 1, "lr": 1e-05, "loss": 1 / 3, "seconds": 0.5},
        {"step": 2, "lr": 2e-05, "loss": 0.0, "seconds": 1.0, "val_loss": 0.125},
    ]
    assert run.metrics() == expected
    assert (tmp_path / METRICS).read_text().splitlines()[:2] == [
        "step,seconds,lr,loss,val_loss",
        f"1,0.5,1e-05,{1 / 3},",
    ]
    metrics.close()


def test_rows_after_the_checkpoint_are_removed_on_resume(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    metrics = MetricsFile(run, COLUMNS, 0)
    for step in range(1, 6):
        metrics.add({"step": step, "lr": 0.1, "loss": 1 / step, "seconds": 1.0})
    metrics.close()
    before = (tmp_path / METRICS).read_text()
    MetricsFile(run, COLUMNS, 5).close()
    assert (tmp_path / METRICS).read_text() == before
    MetricsFile(run, COLUMNS, 3).close()
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_an_incomplete_row_is_left_out(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    metrics = MetricsFile(run, COLUMNS, 0)
    for step in range(1, 13):
        metrics.add({"step": step, "lr": 0.1, "loss": 0.5, "seconds": 1.0})
    metrics.close()
    whole = (tmp_path / METRICS).read_text()
    last = whole.splitlines()[-1]
    for length in range(1, len(last) + 1):  # "1" alone would look like another first row
        (tmp_path / METRICS).write_text(whole[: -len(last) - 1] + last[:length])
        assert [row["step"] for row in run.metrics()] == list(range(1, 12))


def test_a_label_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    metrics = MetricsFile(run, ["step", "loss", "val_dice kidney, left", 'val_dice "odd"'], 0)
    row = {"step": 1, "loss": 0.5, "val_dice kidney, left": 0.75, 'val_dice "odd"': 0.25}
    metrics.add(row)
    metrics.close()
    assert run.metrics() == [row]
    MetricsFile(run, metrics.columns, 1).close()
    assert run.metrics() == [row]
    with (tmp_path / METRICS).open(newline="") as lines:
        assert next(csv.reader(lines)) == metrics.columns

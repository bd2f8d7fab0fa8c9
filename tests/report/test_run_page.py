from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import parsed
from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.recipe import load_recipe
from voxmim.report import run_pictures
from voxmim.report.run_page import curve, loss_curve, repeat_command, run_facts, write_run_page
from voxmim.report.run_pictures import segmentation_pictures
from voxmim.store.format import Store
from voxmim.training.run import Run


def text_of(path: Path) -> str:
    """The text of the report without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (path / "report.html").read_text()))


def status_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "status.json").read_text())


# Reports


def test_the_report_of_a_pre_training_has_its_data_settings_and_losses(tiny_runs: TinyRuns) -> None:
    path, store = tiny_runs.pretrain, Store(tiny_runs.store)
    text = text_of(path)
    first, last = (row["val_loss"] for row in Run.open(path).metrics() if "val_loss" in row)
    assert f"from {first:.3f} to {last:.3f}" in text
    assert "trained for 6 steps, without labels" in text
    for expected in (str(path), store.digest(), "6 cases", "12 x 12 x 12 voxels, in patches of 4 x 4 x 4", "width 24"):
        assert expected in text, expected
    for case in ("case_4", "case_5"):  # always the same validation cases
        assert f"Reconstruction of {case}" in text
        assert list((path / "figures").glob(f"*-Reconstruction-of-{case}.png"))
    assert (path / "report.html").read_text().count("data:image/png;base64,") == 2


def test_the_report_of_a_fine_tuning_has_its_best_step_and_its_initial_weights(tiny_runs: TinyRuns) -> None:
    path = tiny_runs.finetune
    text = text_of(path)
    best = max((row for row in Run.open(path).metrics() if "val_dice" in row), key=lambda row: row["val_dice"])
    assert re.search(rf"on validation cases was {best['val_dice']:.3f}, at step {int(best['step'])}", text)
    assert "from a pre-trained encoder on 4 cases" in text
    assert f"It started from {tiny_runs.pretrain.resolve()}" in text
    assert "Segmentation of case_4" in text
    for label in ("bone", "fat"):
        assert label in text
    assert "width: 24" in text  # the settings


def test_evaluations_and_their_commands_are_added_to_the_report(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    assert "Results on" not in text_of(run)
    result = api.evaluate(run, tiny_runs.store)
    text = text_of(run)
    assert "Results on 2 cases" in text
    assert f"{result['mean']['dice']:.3f}" in text
    assert f"{result['prior']['labels']['fat']['dice']:.3f}" in text
    assert f"voxmim evaluate {run} {tiny_runs.store} --split test" in text


def test_the_report_of_a_classification_has_the_same_parts(tiny_sorted: Sorted, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_sorted.run, tmp_path / "run")
    text, rows = text_of(path), [row for row in Run.open(path).metrics() if "val_score" in row]
    best = max(rows, key=lambda row: row["val_score"])
    assert "A classifier was trained from scratch on 18 cases, for 80 steps." in text
    assert f"was {best['val_score']:.3f}, at step {int(best['step'])}" in text
    assert "cases in test 3 dense, 3 light" in text
    result = api.evaluate(path, tiny_sorted.store)
    text = text_of(path)
    assert f"AUROC {result['auroc']['value']:.3f}" in text
    assert result["convention"] in text
    assert f"voxmim evaluate {path} {tiny_sorted.store} --split test" in text


def test_a_report_without_its_store_has_everything_except_pictures(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_runs.finetune, tmp_path / "run"))
    run.about["store"] = str(tmp_path / "gone")
    write_run_page(run)
    page = (run.path / "report.html").read_text()
    assert "data:image" not in page
    assert "on validation cases was" in page


# During a run


def test_page_and_status_of_a_run_in_progress_say_so(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_runs.pretrain, tmp_path / "run"))
    for weights in run.path.glob("*.safetensors"):
        weights.unlink()  # there may not be any yet
    lines = (run.path / "metrics.csv").read_text().splitlines(keepends=True)
    (run.path / "metrics.csv").write_text("".join(lines[:5]))
    write_run_page(run, running=True)
    assert "In progress: step 4 of 6." in text_of(run.path)
    page = (run.path / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "data:image" not in page
    status = status_of(run.path)
    assert (status["state"], status["step"], status["steps"]) == ("running", 4, 6)
    assert status["validation"]["step"] == 3
    assert status["loss"] == run.metrics()[-1]["loss"]


def test_the_status_of_a_finished_run_says_so(tiny_runs: TinyRuns) -> None:
    assert status_of(tiny_runs.pretrain)["state"] == "done"
    assert 'http-equiv="refresh"' not in (tiny_runs.pretrain / "report.html").read_text()


def test_a_run_without_any_step_has_a_page(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_runs.finetune, tmp_path / "run"))
    (run.path / "metrics.csv").unlink()
    write_run_page(run, running=True)
    assert "In progress: step 0 of 6." in text_of(run.path)
    assert status_of(run.path)["validation"] is None


# Their parts


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_command_to_repeat_a_run_can_be_parsed(tiny_runs: TinyRuns, kind: str) -> None:
    run = Run.open(getattr(tiny_runs, kind))
    program, *arguments = shlex.split(repeat_command(run))
    assert program == "voxmim"
    result = parsed(arguments)
    assert result.command == kind
    assert result.store == tiny_runs.store.resolve()
    assert load_recipe(result.recipe) == run.recipe()
    if kind == "finetune":
        assert (result.labels, result.init) == ("4", (tiny_runs.pretrain / "encoder.safetensors").resolve())
    run.about["store"] = "/my scans/a store"
    assert shlex.split(repeat_command(run))[2] == "/my scans/a store"


def test_the_command_to_repeat_a_classification_names_its_table(tiny_sorted: Sorted) -> None:
    result = parsed(shlex.split(repeat_command(Run.open(tiny_sorted.run)))[1:])
    assert (result.task, result.classes) == ("classification", tiny_sorted.classes.resolve())
    assert (result.labels, result.init) == ("18", None)


def test_the_loss_curve_is_a_running_mean() -> None:
    losses = np.random.default_rng(0).random(200)
    rows = [{"step": i + 1, "loss": float(loss)} for i, loss in enumerate(losses)]
    smoothed = loss_curve(rows)
    assert smoothed.name == "training crops, mean of 20 steps"
    assert list(smoothed.steps) == list(range(20, 201))
    np.testing.assert_allclose(smoothed.values, [losses[i - 20 : i].mean() for i in range(20, 201)])


@pytest.mark.parametrize("count", [1, 5, 30, 5000])
def test_the_loss_curve_has_a_limited_number_of_points(count: int) -> None:
    smoothed = loss_curve([{"step": i + 1, "loss": 1.0} for i in range(count)])
    assert 1 <= len(smoothed.steps) == len(smoothed.values) <= 450
    assert set(np.round(smoothed.values, 9)) == {1.0}


def test_a_curve_is_a_column_of_metrics_by_step() -> None:
    result = curve("mean", [{"step": 3.0, "val": 0.5}, {"step": 6.0, "val": 0.75}], "val")
    assert (result.name, list(result.steps), list(result.values)) == ("mean", [3, 6], [0.5, 0.75])


def test_the_facts_describe_the_run(tiny_runs: TinyRuns) -> None:
    run, store = Run.open(tiny_runs.finetune), Store(tiny_runs.store)
    recipe, rows = run.recipe(), run.metrics()
    facts = dict(run_facts(run, recipe, recipe.finetune, rows, store))
    assert facts["store"] == str(tiny_runs.store.resolve())
    assert facts["trained on"] == "4 cases"
    assert facts["scans"] == "tiny: 10 of CT, at 1 x 1 x 1 mm"
    assert facts["steps"] == "6 of 2 crops, peak lr 0.001"
    assert "data hash" not in dict(run_facts(run, recipe, recipe.finetune, rows, None))


def test_the_segmentation_of_each_run_is_shown_next_to_the_reference(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(
        run_pictures,
        "segmentation_picture",
        lambda scan, columns, spacing, at: shown.append((scan, dict(columns))) or b"png",
    )
    run, store = Run.open(tiny_runs.finetune), Store(tiny_runs.store)
    pictures = segmentation_pictures({"scratch": run, "pre-trained": run}, store, "test")
    assert [picture.title for picture in pictures] == ["Segmentation of case_6", "Segmentation of case_7"]
    assert [name for name, _ in pictures[0].legend] == ["bone", "fat"]
    for (scan, columns), case in zip(shown, store.in_split("test"), strict=True):
        assert list(columns) == ["scan", "reference", "scratch", "pre-trained"]
        np.testing.assert_array_equal(columns["reference"], store.label_map(case.name))
        assert columns["scratch"].shape == case.shape == scan.shape

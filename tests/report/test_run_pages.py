from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import parsed
from conftest import TinyRuns
from voxmim import api
from voxmim.recipe import load_recipe
from voxmim.report.run_pages import (
    curve,
    dice_curves,
    finetune_page,
    loss_curve,
    repeat_command,
    result_table,
    run_facts,
    segmentation_pictures,
)
from voxmim.store.format import Store
from voxmim.training.run import Run

SCORES = {"dice": 0.8125, "hd95_mm": 3.14159, "nsd": None, "ci95": [0.7, 0.9]}


def text_of(path: Path) -> str:
    """The report's text without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (path / "report.html").read_text()))


# Whole reports


def test_a_pre_trainings_report_tells_what_was_run_and_seen(tiny_runs: TinyRuns) -> None:
    path, store = tiny_runs.pretrain, Store(tiny_runs.store)
    text = text_of(path)
    first, last = (row["val_loss"] for row in Run.open(path).metrics() if "val_loss" in row)
    assert f"the error fell from {first:.3f} to {last:.3f}" in text
    assert "75% of each crop was taken away" in text
    assert "trained for 6 steps" in text
    for said in (str(path), store.digest(), "6 cases", "12 x 12 x 12 voxels in patches of 4 x 4 x 4", "width 24"):
        assert said in text, said
    for case in ("case_4", "case_5"):  # always the same validation cases
        assert f"Reconstruction of {case}" in text
        assert list((path / "figures").glob(f"*-Reconstruction-of-{case}.png"))
    assert (path / "report.html").read_text().count("data:image/png;base64,") == 2


def test_a_fine_tunings_report_tells_what_was_run_and_seen(tiny_runs: TinyRuns) -> None:
    path = tiny_runs.finetune
    text = text_of(path)
    best = max((row for row in Run.open(path).metrics() if "val_dice" in row), key=lambda row: row["val_dice"])
    assert f"mean Dice on validation cases was {best['val_dice']:.3f}, at step {int(best['step'])}" in text
    assert "on 4 labelled cases" in text
    assert "from the encoder" in text
    assert "100.0% of the encoder" in text
    assert "Segmentation of case_4" in text
    for label in ("bone", "fat"):
        assert label in text
    assert "width: 24" in text  # the settings


def test_evaluations_and_their_commands_join_the_report(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    assert "Results on" not in text_of(run)
    result = api.evaluate(run, tiny_runs.store)
    text = text_of(run)
    assert "Results on 2 cases of the split" in text
    assert f"{result['mean']['dice']:.3f}" in text
    assert f"{result['prior']['labels']['fat']['dice']:.3f}" in text
    assert f"voxmim evaluate {run} {tiny_runs.store} --split test" in text


def test_a_report_without_its_store_has_no_pictures_but_all_else(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tiny_runs.finetune, tmp_path / "run"))
    run.about["store"] = str(tmp_path / "gone")
    finetune_page(run)
    page = (run.path / "report.html").read_text()
    assert "data:image" not in page
    assert "Its best mean Dice on validation cases" in page


def test_a_run_from_scratch_says_so(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    settings = {"finetune.steps": 1, "finetune.batch": 1}
    run = api.finetune(tiny_runs.store, tmp_path / "run", recipe=tiny_runs.recipe, settings=settings, labels=1)
    text = text_of(run)
    assert "trained from scratch on 1 labelled cases" in text
    assert "weights that moved none" in text


# Their parts


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_command_to_repeat_a_run_is_one_that_can_be_given(tiny_runs: TinyRuns, kind: str) -> None:
    run = Run.open(getattr(tiny_runs, kind))
    program, *arguments = shlex.split(repeat_command(run))
    assert program == "voxmim"
    told = parsed(arguments)
    assert told.command == kind
    assert told.store == tiny_runs.store.resolve()
    assert load_recipe(told.recipe) == run.recipe()
    if kind == "finetune":
        assert (told.labels, told.init) == ("4", (tiny_runs.pretrain / "encoder.safetensors").resolve())
    run.about["store"] = "/my scans/a store"
    assert shlex.split(repeat_command(run))[2] == "/my scans/a store"


def test_a_loss_curve_is_a_running_mean() -> None:
    losses = np.random.default_rng(0).random(200)
    rows = [{"step": i + 1, "loss": float(loss)} for i, loss in enumerate(losses)]
    found = loss_curve(rows, "crops")
    assert found.name == "crops, mean of 20 steps"
    assert list(found.steps) == list(range(20, 201))
    np.testing.assert_allclose(found.values, [losses[i - 20 : i].mean() for i in range(20, 201)])


@pytest.mark.parametrize("count", [1, 5, 30, 5000])
def test_a_loss_curve_is_thin_enough_to_draw(count: int) -> None:
    found = loss_curve([{"step": i + 1, "loss": 1.0} for i in range(count)], "crops")
    assert 1 <= len(found.steps) == len(found.values) <= 450
    assert set(np.round(found.values, 9)) == {1.0}


def test_a_curve_is_a_column_against_the_steps() -> None:
    found = curve("mean", [{"step": 3.0, "val": 0.5}, {"step": 6.0, "val": 0.75}], "val")
    assert (found.name, list(found.steps), list(found.values)) == ("mean", [3, 6], [0.5, 0.75])


def test_each_label_has_its_curve(tiny_runs: TinyRuns) -> None:
    rows = [{"step": 1.0, "val_dice": 0.5, "val_dice bone": 0.25}, {"step": 2.0, "val_dice": 0.6}]
    curves = dice_curves(rows, Store(tiny_runs.store))
    assert [(c.name, list(c.steps)) for c in curves] == [("mean", [1, 2]), ("bone", [1])]
    assert [c.name for c in dice_curves(rows, None)] == ["mean"]


def test_regions_have_their_curves_by_their_names(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tiny_runs.store)
    monkeypatch.setattr(store, "regions", {"all": (1, 2), "inner": (2,)})
    rows = [{"step": 1.0, "val_dice": 0.5, "val_dice inner": 0.25, "val_dice bone": 0.25}]
    assert [c.name for c in dice_curves(rows, store)] == ["mean", "inner"]


def test_the_prior_stands_beside_each_row_of_the_results() -> None:
    result = {
        "split": "val", "tolerance_mm": 2.0, "convention": "As agreed.", "cases": [{}, {}],
        "mean": SCORES, "labels": {"liver": {**SCORES, "dice": 0.5}},
        "prior": {"mean": {"dice": 0.4}, "labels": {"liver": {"dice": None}}},
    }  # fmt: skip
    table = result_table(result)
    assert table.title == "Results on 2 cases of the split 'val'"
    assert table.header[0] == "label"
    assert table.header[-1] == "prior's Dice"
    assert "Left out" not in table.note
    assert "Left out, since they lack a channel: a, b." in result_table({**result, "left_out": ["a", "b"]}).note
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [("mean", "0.812", "0.400"), ("liver", "0.500", "–")]
    assert table.note.startswith("As agreed.")
    del result["prior"]
    assert [row[-1] for row in result_table(result).rows] == ["–", "–"]


def test_facts_are_those_of_the_run(tiny_runs: TinyRuns) -> None:
    run, store = Run.open(tiny_runs.finetune), Store(tiny_runs.store)
    facts = dict(run_facts(run, run.recipe().finetune, store))
    assert facts["store"] == str(tiny_runs.store.resolve())
    assert facts["trained on"] == "4 cases"
    assert facts["scans"] == "tiny: 10 of CT, at 1 x 1 x 1 mm"
    assert facts["steps"] == "6 of 2 crops, peak rate 0.001"
    assert "data hash" not in dict(run_facts(run, run.recipe().finetune, None))


def test_each_runs_segmentation_is_shown_beside_the_reference(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(
        "voxmim.report.run_pages.segmentation_picture",
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

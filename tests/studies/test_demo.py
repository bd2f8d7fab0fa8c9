"""The whole journey on a few phantoms, once, and what it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from command_line import parsed
from conftest import TINY_RECIPE
from voxmim import api
from voxmim.errors import RecipeError, RunError, StoreError
from voxmim.phantoms.cohort import write_cohort
from voxmim.recipe import load_recipe, make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.studies import demo as module
from voxmim.training.run import Run

SPLITS = {
    "train": ["phantom_003", "phantom_000"],
    "val": ["phantom_002"],
    "test": ["phantom_001", "phantom_004"],
    "unlabelled": ["phantom_005"],
}
SETTINGS = {
    "crop": None, "crop_voxels": 24**3, "precision": "bf16", "overlap": 0.0, "rates": [1e-3, 1e-5],
    "pretrain.steps": 4, "pretrain.validate_every": 2, "finetune.steps": 4, "finetune.validate_every": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Travelled:
    """What one demo was given, printed and left."""

    data: Path
    out: Path
    summary: dict[str, Any]
    commands: list[str]


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> Travelled:
    folder = tmp_path_factory.mktemp("demo [a b]")  # a name that a shell and a style sheet could misread
    data = folder / "cohort"
    write_cohort(data, 6, seed=3)
    (data / "splits.json").write_text(json.dumps(SPLITS))
    (data / "labelsTr" / "phantom_005.nii.gz").unlink()
    write_recipe(folder / "tiny.yaml", make_recipe(TINY_RECIPE))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        summary = api.demo(data, folder / "out", 5, folder / "tiny.yaml", SETTINGS, spacing=(7.5, 7.5, 10.0))
    commands = [line.removeprefix("$ ") for line in printed.getvalue().splitlines() if line.startswith("$ ")]
    return Travelled(data, folder / "out", summary, commands)


def test_the_results_have_the_documented_form(travelled: Travelled) -> None:
    results = json.loads((travelled.out / "results.json").read_text())
    assert results == travelled.summary
    assert set(results) == {"data", "arms", "paired", "cases", "runs", "seconds", "peak_memory_gib", "seen"}
    assert results["data"] == str(travelled.data)
    assert results["cases"] == 2
    arms = results["arms"]
    assert list(arms) == ["prior", "scratch", "pretrained"]
    assert set(arms["prior"]) == {"dice", "ci95"}
    for arm in ("scratch", "pretrained"):
        assert set(arms[arm]) == {"dice", "ci95", "hd95_mm", "nsd", "lr", "curve"}
        assert [step for step, _ in arms[arm]["curve"]] == [2, 4]
        assert all(0 <= dice <= 1 for _, dice in arms[arm]["curve"])
    for scores in arms.values():
        assert 0 <= scores["ci95"][0] <= scores["dice"] <= scores["ci95"][1] <= 1
    assert set(results["runs"]) == {"scratch", "pretrained"}
    steps = {"prepare", "pretrain", "scratch", "pretrained", "evaluate", "predict", "reconstruct"}
    assert set(results["seconds"]) == steps
    assert all(seconds >= 0 for seconds in results["seconds"].values())
    assert 0.1 < results["peak_memory_gib"] < 8


def test_the_splits_of_the_data_are_followed(travelled: Travelled) -> None:
    store = Store(travelled.out / "store")
    assert {split: {case.name for case in store.in_split(split)} for split in SPLITS} == {
        split: set(names) for split, names in SPLITS.items()
    }
    for path in travelled.summary["runs"].values():
        evaluation = json.loads((Path(path) / "evaluation-test.json").read_text())
        assert [case["case"] for case in evaluation["cases"]] == ["phantom_001", "phantom_004"]


def test_both_arms_learn_alike_from_the_same_few_labels(travelled: Travelled) -> None:
    scratch, pretrained = (Run.open(travelled.summary["runs"][arm], "finetune") for arm in ("scratch", "pretrained"))
    assert len(scratch.about["cases"]) == 1  # a tenth of two, but at least one
    assert scratch.about["cases"] == pretrained.about["cases"]
    assert scratch.about["init"] is None
    assert pretrained.about["init"] == str((travelled.out / "pretrain" / "encoder.safetensors").resolve())
    one, other = scratch.recipe(), pretrained.recipe()
    assert (one.finetune.steps, one.finetune.augmentation) == (other.finetune.steps, other.finetune.augmentation)
    assert one.vit == other.vit
    assert one.crop == other.crop
    assert one.seed == 5


def test_each_arm_takes_the_rate_that_does_best_on_validation_cases(travelled: Travelled) -> None:
    for arm in ("scratch", "pretrained"):
        best = {}
        for rate in (1e-3, 1e-5):
            run = Run.open(travelled.out / f"{arm}-lr{rate:g}")
            assert run.recipe().finetune.lr == rate
            best[str(run.path)] = max(row["val_dice"] for row in run.metrics() if "val_dice" in row)
        chosen = travelled.summary["runs"][arm]
        assert best[chosen] == max(best.values())
        assert travelled.summary["arms"][arm]["lr"] == Run.open(chosen).recipe().finetune.lr


def test_the_results_are_those_of_the_chosen_runs(travelled: Travelled) -> None:
    for arm, path in travelled.summary["runs"].items():
        evaluation = json.loads((Path(path) / "evaluation-test.json").read_text())
        for key in ("dice", "ci95", "hd95_mm", "nsd"):
            assert travelled.summary["arms"][arm][key] == evaluation["mean"][key]
        assert travelled.summary["arms"]["prior"]["dice"] == evaluation["prior"]["mean"]["dice"]
        validated = [[row["step"], row["val_dice"]] for row in Run.open(path).metrics() if "val_dice" in row]
        assert travelled.summary["arms"][arm]["curve"] == validated


def test_the_arms_are_paired_over_the_validation_cases_at_every_step(travelled: Travelled) -> None:
    rows = {}
    for arm, path in travelled.summary["runs"].items():
        rows[arm] = {int(row["step"]): row for row in Run.open(path).metrics() if "val_dice" in row}
    assert [at["step"] for at in travelled.summary["paired"]] == [2, 4]
    page = (travelled.out / "report.html").read_text()
    for at in travelled.summary["paired"]:
        first, second = (rows[arm][at["step"]]["case phantom_002"] for arm in ("scratch", "pretrained"))
        assert first == rows["scratch"][at["step"]]["val_dice"]  # the only validation case
        assert at["difference"] == pytest.approx(second - first)
        assert at["ci95"] == [at["difference"]] * 2
        assert f"{at['difference']:+.3f}" in page


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([[0.01, 0.03], [-0.01, 0.02]], "It was ahead, by a 95 % interval that leaves out zero, at step 2."),
        ([[-0.03, -0.01], [-0.02, -0.01]], "It was behind, by a 95 % interval that leaves out zero, at step 2, 4."),
        ([[-0.01, 0.01], [0.0, 0.01]], "At none of the steps validated was a difference seen."),
    ],
)
def test_what_was_seen_step_by_step_is_said_whether_it_pleases_or_not(
    travelled: Travelled, intervals: list[list[float]], words: str
) -> None:
    results = {
        arm: json.loads((Path(path) / "evaluation-test.json").read_text())
        for arm, path in travelled.summary["runs"].items()
    }
    paired = [{"step": step, "difference": 0.0, "ci95": ci} for step, ci in zip((2, 4), intervals, strict=True)]
    assert words in module._seen(travelled.summary["arms"], paired, results)


def test_every_printed_command_can_be_given(travelled: Travelled) -> None:
    asked = []
    for command in travelled.commands:
        program, *arguments = shlex.split(command)
        assert program == "voxmim"
        asked.append(parsed(arguments))
    assert [told.command for told in asked] == (
        ["prepare", "pretrain", *["finetune"] * 4, "evaluate", "evaluate", "predict", "reconstruct"]
    )
    out = travelled.out
    assert (asked[0].source, asked[0].out, asked[0].seed) == (travelled.data, out / "store", 5)
    assert tuple(asked[0].spacing) == Store(out / "store").preparation.spacing == (7.5, 7.5, 10.0)
    assert load_recipe(asked[1].recipe) == load_recipe(out.parent / "tiny.yaml", {"seed": 5, **SETTINGS})
    assert [(told.settings["finetune.lr"], told.labels, told.init) for told in asked[2:6]] == [
        (1e-3, "0.1", None), (1e-5, "0.1", None), (1e-3, "0.1", out / "pretrain"), (1e-5, "0.1", out / "pretrain"),
    ]  # fmt: skip
    assert [str(told.run) for told in asked[6:8]] == list(travelled.summary["runs"].values())


def test_a_printed_command_does_what_the_demo_did(travelled: Travelled, tmp_path: Path) -> None:
    _, *arguments = shlex.split(travelled.commands[2])
    told = parsed(arguments)
    again = api.finetune(told.store, tmp_path / "again", told.init, told.labels, told.recipe, told.settings)
    traces = [[(row["lr"], row["loss"]) for row in Run.open(path).metrics()] for path in (again, told.out)]
    assert traces[0] == traces[1]


def test_one_test_case_is_labelled_and_one_reconstructed(travelled: Travelled) -> None:
    scan = nib.load(travelled.data / "imagesTr" / "phantom_001.nii.gz")
    label = nib.load(travelled.out / "predictions" / "phantom_001.nii.gz")
    assert label.shape == scan.shape
    assert {file.name for file in (travelled.out / "reconstructions").iterdir()} == {
        "phantom_001.png", "phantom_001_mask.nii.gz", "phantom_001_masked.nii.gz", "phantom_001_reconstructed.nii.gz",
    }  # fmt: skip


def test_the_report_says_what_was_seen(travelled: Travelled) -> None:
    page = (travelled.out / "report.html").read_text()
    summary = travelled.summary
    for said in ("position-only prior", "from scratch", "pre-trained", "Dice per label", "liver", "Segmentation of"):
        assert said in page
    for arm in summary["arms"].values():
        assert f"{arm['dice']:.3f}" in page
    assert f"Position alone, without a look at the image, scores {summary['arms']['prior']['dice']:.3f}." in page
    assert summary["seen"].startswith("Dice on test cases, pre-trained minus from scratch: ")
    assert page.count("voxmim finetune") == 4
    for run in ("pretrain", "scratch-lr0.001", "pretrained-lr1e-05"):
        assert (travelled.out / run / "report.html").is_file()


# What is refused, and what a demo begins with


def test_several_processes_are_refused(tmp_path: Path) -> None:
    told = {"devices": 2, "pretrain.batch": 4, "finetune.batch": 4}
    with pytest.raises(RecipeError, match="a demo trains in one process; leave out nodes and devices"):
        api.demo(out=tmp_path / "out", settings=told)
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_refused(travelled: Travelled) -> None:
    before = (travelled.out / "results.json").read_bytes()
    with pytest.raises(RunError, match="there is something here already; name another folder with --out"):
        api.demo(travelled.data, travelled.out)
    assert (travelled.out / "results.json").read_bytes() == before


def test_data_without_labelled_cases_in_a_split_is_refused(tiny_source: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_source(cases=3, splits={"train": ["case_0", "case_1"], "test": ["case_2"]})
    with pytest.raises(StoreError, match="there is no labelled case in the split 'val', which the demo needs"):
        api.demo(source, tmp_path / "out")


def test_without_data_the_phantoms_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(module, "write_cohort", lambda *given: made.append(given))

    def stop(source: Path, out: Path, spacing: object, seed: int) -> None:
        raise StoreError(f"{source} at {spacing}")

    monkeypatch.setattr(module, "prepare", stop)
    with pytest.raises(StoreError, match=r"out/phantoms at \(7.5, 7.5, 7.5\)"):
        api.demo(out=tmp_path / "out", seed=7)
    assert made == [(tmp_path / "out" / "phantoms", module.PHANTOMS, 7)]
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert (recipe, recipe.seed) == (load_recipe("demo", {"seed": 7}), 7)


def test_steps_to_a_dice_are_those_of_the_first_point_that_reaches_it() -> None:
    points = [[2, 0.1], [4, 0.5], [6, 0.4], [8, 0.6]]
    assert [module._steps_to(points, dice) for dice in (0.0, 0.3, 0.5, 0.55, 0.7)] == [2, 4, 4, 8, None]


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([[2, 0.1], [4, 0.55]], "the pre-trained one reached the best Dice from scratch (0.500, step 2) at step 4."),
        ([[2, 0.1], [4, 0.45]], "The pre-trained one did not reach the best validation Dice from scratch (0.500)."),
    ],
)
def test_what_was_seen_is_said_whether_it_pleases_or_not(curve: list[list[float]], said: str) -> None:
    arms = {"prior": {"dice": 0.25}, "scratch": {"curve": [[2, 0.5], [4, 0.4]]}, "pretrained": {"curve": curve}}
    results = {
        "scratch": {"cases": [{"mean_dice": 0.5}, {"mean_dice": 0.6}, {"mean_dice": None}]},
        "pretrained": {"cases": [{"mean_dice": 0.4}, {"mean_dice": 0.5}, {"mean_dice": 0.1}]},
    }
    seen = module._seen(arms, [], results)
    assert "Dice on test cases, pre-trained minus from scratch: -0.100" in seen
    assert said in seen
    assert "scores 0.250" in seen

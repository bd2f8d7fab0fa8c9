"""The demo on a few phantoms, and its files."""

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
from voxmim import api, commands
from voxmim.errors import RecipeError, RunError, StoreError
from voxmim.phantoms.cohort import write_cohort
from voxmim.recipe import load_recipe, make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.studies import demo as module
from voxmim.studies import speed, trial
from voxmim.training.plateau import Plateau
from voxmim.training.run import Run

SPLITS = {
    "train": ["phantom_003", "phantom_000"],
    "val": ["phantom_002"],
    "test": ["phantom_001", "phantom_004"],
    "unlabelled": ["phantom_005"],
}
SPACING = (12.0, 12.0, 15.0)  # mm
SETTINGS = {
    "crop": None, "crop_voxels": 16**3, "precision": "32", "overlap": 0.0, "lrs": [1e-3, 1e-5],
    "pretrain.steps": 4, "pretrain.validate_every": 2, "finetune.steps": 4, "finetune.validate_every": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """A demo: its data, folder, result and printed commands."""

    data: Path
    out: Path
    result: dict[str, Any]
    commands: list[str]

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        return {arm["name"]: arm for arm in self.result["arms"]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo [a b]")  # a name with characters that are special in shells and CSS
    data = folder / "cohort"
    write_cohort(data, 6, seed=3)
    (data / "splits.json").write_text(json.dumps(SPLITS))
    (data / "labelsTr" / "phantom_005.nii.gz").unlink()
    write_recipe(folder / "tiny.yaml", make_recipe(TINY_RECIPE))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = api.demo(data, folder / "out", 5, folder / "tiny.yaml", SETTINGS, spacing=SPACING)
    commands = [line.removeprefix("$ ") for line in printed.getvalue().splitlines() if line.startswith("$ ")]
    return Demo(data, folder / "out", result, commands)


def test_the_splits_of_the_data_are_used(demo: Demo) -> None:
    store = Store(demo.out / "store")
    assert {split: {case.name for case in store.in_split(split)} for split in SPLITS} == {
        split: set(names) for split, names in SPLITS.items()
    }


def test_both_arms_are_trained_equally_on_the_same_few_labels(demo: Demo) -> None:
    scratch, pretrained = (Run.open(demo.arms[arm]["runs"][5]) for arm in ("from scratch", "pre-trained"))
    assert len(scratch.about["cases"]) == 1  # a tenth of two cases, but at least one
    assert scratch.about["cases"] == pretrained.about["cases"]
    assert scratch.about["init"] is None
    assert pretrained.about["init"].startswith(str(Path(demo.arms["pre-trained"]["pretrainings"][5]).resolve()))
    one, other = scratch.recipe(), pretrained.recipe()
    assert (one.finetune.steps, one.finetune.augmentation) == (other.finetune.steps, other.finetune.augmentation)
    assert (one.encoder_settings, one.crop) == (other.encoder_settings, other.crop)
    assert one.seed == 5


def test_each_arm_has_the_learning_rate_with_the_best_validation(demo: Demo) -> None:
    for arm in demo.arms.values():
        assert set(arm["tried"]) == {"0.001", "1e-05"}
        assert arm["tried"][f"{arm['lr']:g}"] == max(arm["tried"].values())
        assert Run.open(arm["runs"][5]).recipe().finetune.lr == arm["lr"]


def test_scores_are_those_of_the_selected_runs(demo: Demo) -> None:
    rows = {row[0].rstrip("*"): row for row in demo.result["tables"][0]["rows"]}
    for name, arm in demo.arms.items():
        evaluation = json.loads((Path(arm["runs"][5]) / "evaluation-test.json").read_text())
        assert [case["case"] for case in evaluation["cases"]] == ["phantom_001", "phantom_004"]
        assert arm["test"][5] == evaluation["mean"]
        assert rows[name][1] == f"{evaluation['mean']['dice']:.3f}"
    assert rows["position-only prior"][1] == f"{evaluation['prior']['mean']['dice']:.3f}"


def test_every_printed_command_can_be_parsed(demo: Demo) -> None:
    result = [parsed(shlex.split(command)[1:]) for command in demo.commands]
    names = [one.command for one in result]
    assert names == ["prepare", "study", "pretrain", *["finetune"] * 4, *["evaluate"] * 2, "predict", "reconstruct"]
    assert (result[0].source, result[0].out, result[0].seed) == (demo.data, demo.out / "store", 5)
    assert tuple(result[0].spacing) == Store(demo.out / "store").preparation.spacing == SPACING
    assert load_recipe(result[1].recipe) == load_recipe(demo.out.parent / "tiny.yaml", {"seed": 5, **SETTINGS})
    assert [str(one.run) for one in result[7:9]] == [arm["runs"][5] for arm in demo.arms.values()]


def test_repeating_a_demo_trains_nothing(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_run", lambda *_: pytest.fail("it was trained again"))
    again = api.demo(demo.data, demo.out, 5, demo.out.parent / "tiny.yaml", SETTINGS, spacing=SPACING)
    assert again["tables"] == demo.result["tables"]


def test_the_console_names_the_arms_that_have_not_converged(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "plateau", lambda steps, _: Plateau(0.5, float(steps[-1]), done=False))
    recipe = demo.out.parent / "tiny.yaml"
    again = api.demo(demo.data, demo.out, 5, recipe, SETTINGS, spacing=SPACING)
    commands.demo(again, {"out": demo.out})
    assert "Not done: from scratch; pre-trained. The last quarter" in capsys.readouterr().out
    assert "with more steps, such as --set finetune.steps=8, they may" in (demo.out / "report.html").read_text()


def test_one_test_case_is_predicted_and_one_reconstructed(demo: Demo) -> None:
    scan = nib.load(demo.data / "imagesTr" / "phantom_001.nii.gz")
    label = nib.load(demo.out / "predictions" / "phantom_001.nii.gz")
    assert label.shape == scan.shape
    assert {file.name for file in (demo.out / "reconstructions").iterdir()} == {
        "phantom_001.png", "phantom_001_mask.nii.gz", "phantom_001_masked.nii.gz", "phantom_001_reconstructed.nii.gz",
    }  # fmt: skip


def test_the_report_has_scores_labels_curves_and_pictures(demo: Demo) -> None:
    page = (demo.out / "report.html").read_text()
    for text in ("position-only prior", "from scratch", "pre-trained", "Dice by label", "liver", "Segmentation of"):
        assert text in page
    assert "Reconstruction of phantom_002" in page
    assert page.count("voxmim finetune") == 4
    assert page.count("voxmim prepare") == 1
    assert page.count("<svg") == 2


# Refused options


def test_several_processes_are_refused(tmp_path: Path) -> None:
    settings = {"devices": 2, "pretrain.batch": 4, "finetune.batch": 4}
    with pytest.raises(RecipeError, match="a demo trains in one process; leave out nodes and devices"):
        api.demo(out=tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="there is something else here already; name another folder with --out"):
        api.demo(out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_data_without_labelled_cases_in_a_split_is_refused(tiny_source: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_source(cases=3, splits={"train": ["case_0", "case_1"], "test": ["case_2"]})
    with pytest.raises(StoreError, match="there is no labelled case in the split 'val', which a study needs"):
        api.demo(source, tmp_path / "out")


def test_without_data_phantoms_are_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

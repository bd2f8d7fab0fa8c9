"""A study on tiny scans with two seeds and two learning rates, and its files."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import parsed
from conftest import TINY_RECIPE, Tiny
from processes import CONTEXT, rows_reach, wait_for
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RecipeError, RunError, StoppedError, StoreError
from voxmim.files import lock_folder
from voxmim.recipe import make_recipe, write_recipe
from voxmim.studies import convergence
from voxmim.studies import trial as trial_module
from voxmim.studies.arm import Comparison
from voxmim.studies.trial import TRIALS, Trial
from voxmim.training import loop
from voxmim.training.progress import TrainingProgress
from voxmim.training.run import Run

SHORT = {"steps": 4, "validate_every": 2, "checkpoint_every": 2, "batch": 2, "crops_per_scan": 1, "lr": 1e-3}
ARMS = ["from scratch", "from scratch, twice the steps", "SimCLR", "SimMIM", "MAE", "from scratch, equal time"]
SETTINGS = {"simclr:simclr.projection_width": 8}


@dataclass(frozen=True)
class StudyRun:
    """The inputs and outputs of one study."""

    store: Path
    recipe: Path
    out: Path
    result: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.out / "convergence"

    def again(self, out: Path, **changes: Any) -> dict[str, Any]:
        """Run the same study in another folder."""
        return api.study("convergence", self.store, out, 2, recipe=self.recipe, **{"settings": SETTINGS, **changes})


@pytest.fixture(scope="module", autouse=True)
def fix_equal_time_steps_and_pictures() -> Iterator[None]:
    """Six steps for the equal-time arm, whatever the time measured; test_curves.py tests the rule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convergence, "equal_time_steps", lambda *_: 6)
        patch.setattr("voxmim.report.run_pictures._SHOWN", 1)
        yield


@pytest.fixture(scope="module")
def study_run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    folder = tmp_path_factory.mktemp("study [a b]")
    recipe = make_recipe({**TINY_RECIPE, "lrs": [1e-3, 1e-5], "seed": 3, "pretrain": SHORT, "finetune": SHORT})
    write_recipe(folder / "recipe.yaml", recipe)
    result = api.study(
        "convergence", tiny.store, folder / "out", 2, recipe=folder / "recipe.yaml", settings=SETTINGS, labels="0.5"
    )
    return StudyRun(tiny.store, folder / "recipe.yaml", folder / "out", result)


def runs(study_run: StudyRun, kind: str) -> list[Run]:
    folders = sorted(path for path in (study_run.out / "trials").glob(f"{kind}-*") if path.is_dir())
    return [Run.open(path, kind) for path in folders]


def test_every_trial_is_done_once(study_run: StudyRun) -> None:
    states = [trial["state"] for trial in study_run.result["trials"]]
    # three pre-trainings and six arms with two seeds, the first seed at two learning rates; each arm tested per seed
    assert states == ["done"] * (3 * 2 + 6 * 3 + 6 * 2)
    assert len(runs(study_run, "pretrain")) == 6
    assert len(runs(study_run, "finetune")) == 18
    assert study_run.result["seeds"] == [3, 4]


def test_pre_trainings_are_compared_with_guessing(study_run: StudyRun) -> None:
    table = next(table for table in study_run.result["tables"] if table["title"] == "Pre-trainings")
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    assert list(rows) == ["SimCLR", "SimMIM", "MAE"]
    assert float(rows["SimCLR"]["guessing"]) == pytest.approx(math.log(7), abs=1e-3)  # a guess among seven other views
    for row in rows.values():
        gain = float(row["guessing"]) - float(row["validation loss"].split(" to ")[1])
        assert gain > -2e-3 if row["learned"] == "yes" else gain < 2e-3  # both were rounded to three digits


def test_every_table_marks_arms_whose_pre_training_learned_nothing(
    study_run: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Comparison.rows

    def rows_with_guess(comparison: Comparison, trial: Trial) -> list[dict[str, float]]:
        guess = -1.0 if trial.recipe.pretext == "simclr" else 1e9
        return [{**row, "val_guess": guess} if "val_guess" in row else row for row in rows(comparison, trial)]

    out = shutil.copytree(study_run.out, tmp_path / "out")
    monkeypatch.setattr(Comparison, "rows", rows_with_guess)
    again = study_run.again(out, labels=["0.5"])
    tables = {table["title"]: table for table in again["tables"]}
    assert len(tables) >= 5
    for title in (
        "Results on 2 test cases",
        "Differences on test cases",
        "Steps to another arm's best validation Dice",
    ):
        text = json.dumps(tables[title])
        assert "SimCLR*" in text
        assert "MAE*" not in text
        assert re.search(r"no better than guessing, .*: SimCLR, loss \d", tables[title]["note"])
    assert [row[-1] for row in tables["Pre-trainings"]["rows"]] == ["no", "yes", "yes"]
    assert any(line.startswith("SimCLR* minus from scratch") for line in again["found"])
    assert any("no better than guessing" in line for line in again["found"])


def test_arms_differ_only_in_their_initial_weights(study_run: StudyRun) -> None:
    finetunings = [(run, run.recipe()) for run in runs(study_run, "finetune")]
    for seed in (3, 4):
        own = [(run, recipe) for run, recipe in finetunings if recipe.seed == seed]
        assert len({tuple(run.about["cases"]) for run, _ in own}) == 1
        assert len(own[0][0].about["cases"]) == 2
        assert sorted({recipe.finetune.steps for _, recipe in own}) == [4, 6, 8]
        assert all(run.about["init"] is None for run, recipe in own if recipe.finetune.steps > 4)
        assert len({json.dumps(vars(recipe.finetune.augmentation)) for _, recipe in own}) == 1
        for run, _ in own:
            if run.about["init"] is not None:  # each seed starts from its own pre-training
                assert f"-seed{seed}-" in run.about["init"]
    kept = {run.recipe().pretext: run.recipe() for run in runs(study_run, "pretrain")}
    assert (kept["mae"].pretrain.steps, kept["mae"].pretrain.batch) == (4, 2)
    assert (kept["simmim"].pretrain.steps, kept["simmim"].pretrain.batch) == (2, 2)  # whose steps take longer
    assert (kept["simclr"].pretrain.steps, kept["simclr"].pretrain.batch) == (1, 4)  # as many crops as for SimMIM
    assert kept["simclr"].pretext_settings.projection_width == 8


def test_an_arm_has_the_learning_rate_with_the_best_validation_of_the_first_seed(
    study_run: StudyRun,
) -> None:
    for arm in study_run.result["arms"]:
        assert set(arm["tried"]) == {"0.001", "1e-05"}
        assert f"{arm['lr']:g}" == max(arm["tried"], key=arm["tried"].get)
        assert arm["validation"][3] == max(arm["tried"].values())
    for run in runs(study_run, "finetune"):
        if (recipe := run.recipe()).seed == 4:
            assert recipe.finetune.lr in {arm["lr"] for arm in study_run.result["arms"]}


def test_only_the_selected_runs_are_scored_on_test_cases(study_run: StudyRun) -> None:
    scored = [run for run in runs(study_run, "finetune") if (run.path / "evaluation-test.json").is_file()]
    rates = {arm["name"]: arm["lr"] for arm in study_run.result["arms"]}
    assert len(scored) == 12
    for run in scored:
        training = run.recipe().finetune
        assert training.lr in rates.values()
        if training.steps == 8:
            assert training.lr in (rates["from scratch, twice the steps"], rates[ARMS[-1]])


def test_every_raw_result_is_in_the_csv(study_run: StudyRun) -> None:
    with (study_run.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for arm in study_run.result["arms"]:
        for seed, mean in arm["test"].items():
            own = [
                row for row in rows
                if row["kind"] == "evaluate" and row["arm"] == arm["name"] and row["seed"] == str(seed)
                and row["metric"] == "dice" and row["value"]
            ]  # fmt: skip
            cases = {row["case"] for row in own}
            assert cases == {"case_6", "case_7"}
            by_case = [np.mean([float(row["value"]) for row in own if row["case"] == case]) for case in cases]
            assert np.mean(by_case) == pytest.approx(mean["dice"])
        steps = {
            row["step"] for row in rows
            if (row["kind"], row["arm"], row["metric"], row["case"]) == ("finetune", arm["name"], "dice", "case_4")
        }  # fmt: skip
        last = {"from scratch, twice the steps": 8, "from scratch, equal time": 6}.get(arm["name"], 4)
        assert steps == {str(step) for step in range(2, last + 1, 2)}
    assert {row["kind"] for row in rows} == {"pretrain", "finetune", "evaluate"}
    assert {row["arm"] for row in rows if row["kind"] == "evaluate"} == {*ARMS, "position-only prior"}


def test_all_pages_show_the_same_tables(study_run: StudyRun) -> None:
    html, markdown = ((study_run.folder / name).read_text() for name in ("report.html", "page.md"))
    first, differences, speeds, *_ = study_run.result["tables"]
    assert [row[0].rstrip("*") for row in first["rows"]] == ["position-only prior", *ARMS]
    assert len(differences["rows"]) == 8
    assert len(speeds["rows"]) == 8
    for table in study_run.result["tables"]:
        for row in table["rows"]:
            assert all(cell.replace("*", "\\*") in markdown for cell in row)
            assert all(cell.replace("'", "&#39;") in html for cell in row)
    for sentence in study_run.result["found"]:
        assert sentence.replace("*", "\\*") in markdown
    for number, name in enumerate(sorted(path.name for path in (study_run.folder / "pictures").iterdir()), start=1):
        assert name == f"{number:02d}.png"
        assert f"](pictures/{name})" in markdown
    assert json.loads((study_run.folder / "study.json").read_text())["found"] == study_run.result["found"]


def test_the_command_of_a_study_repeats_it(study_run: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(study_run.result["command"])
    result = vars(parsed(arguments))
    assert (program, result.pop("command"), result.pop("name")) == ("voxmim", "study", "convergence")
    assert result.pop("settings") == SETTINGS
    assert result == {
        "data": [study_run.store], "out": study_run.out, "seeds": 2, "labels": ["0.5"],
        "recipe": study_run.recipe, "scheduler": None, "accept_findings": False, "plan_only": False,
    }  # fmt: skip


# Resuming, and failed trials


def test_repeating_the_command_trains_nothing_and_prints_the_results(
    study_run: StudyRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_run", lambda *_: pytest.fail("it was done again"))
    with pytest.raises(SystemExit) as exit_info:
        main(shlex.split(study_run.result["command"])[1:])
    output = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert all(sentence in output for sentence in study_run.result["found"])
    assert "done: the study, 36 trials" in output
    assert json.loads((study_run.folder / "study.json").read_text())["tables"] == study_run.result["tables"]


def test_a_failed_trial_is_left_out_and_run_again_later(
    study_run: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(study_run.out, tmp_path / "out")
    for file in (out / "trials").iterdir():
        if file.name.startswith(("pretrain-simmim", "finetune-from-simmim")):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    tested = {trial["trial"] for trial in study_run.result["trials"] if trial["trial"].startswith("evaluate")}
    pretrain = trial_module.pretrain

    def fails(store: Any, path: Path, recipe: Any, *more: Any) -> Any:
        if recipe.seed == 3:
            raise RuntimeError("out of\nmemory")
        return pretrain(store, path, recipe, *more)

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "pretrain", fails)
        incomplete = study_run.again(out, labels=["0.5"])
    assert "failed: pretrain-simmim-seed3-" in capsys.readouterr().out
    states = {trial["trial"]: trial["state"] for trial in incomplete["trials"] if trial["state"] != "done"}
    assert sorted(states.values()) == ["failed", "skipped", "skipped"]  # the failed trial, and those that start from it
    rows = {row[0].rstrip("*"): row for row in incomplete["tables"][0]["rows"]}
    assert rows["SimMIM"][-1] == "missing"
    assert rows["MAE"] in study_run.result["tables"][0]["rows"]
    missing = incomplete["tables"][-1]
    assert missing["title"] == "Missing trials"
    assert ["failed", "RuntimeError: out of memory"] in [row[1:] for row in missing["rows"]]
    assert "3 trials missing" in (out / "convergence" / "report.html").read_text()
    completed = study_run.again(out, labels=["0.5"])
    assert completed["tables"][:3] == study_run.result["tables"][:3]
    assert {trial["trial"] for trial in completed["trials"]} >= tested


def run_slowly(arguments: list[str]) -> None:
    """Run a command that takes half a second before each training step."""
    take_step = loop._step

    def step(*given: Any) -> None:
        time.sleep(0.5)
        take_step(*given)

    loop._step = step  # type: ignore[assignment]
    main(arguments)


def test_a_killed_study_continues_where_it_stopped(
    study_run: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial is left to be run; it is killed after step 3 of 4, with a checkpoint of step 2."""
    out = shutil.copytree(study_run.out, tmp_path / "out")
    path = next(path for path in (out / "trials").glob("pretrain-mae-seed3-*") if path.is_dir())
    expected = [row["loss"] for row in Run.open(path).metrics()]
    shutil.rmtree(path)
    path.with_name(f"{path.name}.json").unlink()
    arguments = shlex.split(study_run.result["command"].replace(str(study_run.out), str(out)))[1:]
    process, enough = CONTEXT.Process(target=run_slowly, args=(arguments,)), rows_reach(path, 3)
    process.start()
    wait_for(enough)
    process.kill()
    process.join()
    before = Run.open(path).metrics()
    assert len(before) == 3
    run, trials = trial_module._run, []
    monkeypatch.setattr(trial_module, "_run", lambda trial, out: (trials.append(trial.name), run(trial, out)))
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 0
    assert trials == [path.name]
    after = Run.open(path).metrics()
    assert after[:2] == before[:2]  # with their seconds, so these steps were not repeated
    assert [row["loss"] for row in after] == expected


def test_a_signal_stops_the_study_and_not_only_its_current_training(
    study_run: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingProgress, "update", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError, match=rf"^{tmp_path}: the study was stopped; run the same command") as stopped:
        study_run.again(tmp_path)
    assert stopped.value.status == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob(f"{TRIALS}/*/run.json"))) == 1
    assert not list(tmp_path.glob(f"{TRIALS}/*.json"))  # it was not recorded as failed


# Refused options


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"name": "convergance"}, RunError, "'convergance' is no study .*did you mean 'convergence'"),
        ({"seeds": 0}, RunError, "--seeds 0: give 1 or more"),
        ({"labels": ["0.5", "1.0"]}, StoreError, "uses one number of labelled cases; give one"),
        ({"labels": "7"}, StoreError, "--labels 7: give all, a fraction such as 0.1 or a number from 1 to 4"),
        ({"settings": {"devices": 2}}, RecipeError, "leave out nodes and devices"),
        ({"settings": {"simclear:pretrain.steps": 2}}, RecipeError, "'simclear' is no pretext; did you mean 'simclr'"),
        (
            {"settings": {"mae:pretrain.step": 2}},
            RecipeError,
            "'pretrain.step' is not a setting; did you mean 'pretrain.steps'",
        ),
        ({"settings": {"crop": [14, 12, 12]}}, RecipeError, "not a multiple of the vit's patch"),
    ],
)
def test_invalid_options_are_refused_before_any_training(
    study_run: StudyRun, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    result = {"name": "convergence", "data": study_run.store, "out": tmp_path / "out", "recipe": study_run.recipe}
    with pytest.raises(error, match=words):
        api.study(**{**result, **changes})
    assert not (tmp_path / "out" / "trials").exists()


def test_a_store_without_test_cases_is_refused(store_without_split: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no labelled case in the split 'test', which a study needs"):
        api.study("convergence", store_without_split("test"), tmp_path / "out")


@pytest.fixture
def store_without_split(tiny: Tiny, tmp_path: Path) -> Callable[[str], Path]:
    def make(split: str) -> Path:
        store = shutil.copytree(tiny.store, tmp_path / "store")
        index = json.loads((store / "index.json").read_text())
        index["cases"] = [case for case in index["cases"] if case["split"] != split]
        (store / "index.json").write_text(json.dumps(index))
        return store

    return make


def test_a_second_study_in_the_same_folder_is_refused(study_run: StudyRun) -> None:
    with (
        lock_folder(study_run.out, RunError("")),
        pytest.raises(RunError, match="another study is running here; wait for it, or name another folder"),
    ):
        study_run.again(study_run.out)


def test_a_folder_with_trials_of_other_code_is_refused(study_run: StudyRun, tmp_path: Path) -> None:
    out = shutil.copytree(study_run.out, tmp_path / "out")
    note = next((out / "trials").glob("pretrain-*.json"))
    before = json.loads(note.read_text())
    before.pop("source")  # as in trials from before their names had a hash of the code
    note.write_text(json.dumps(before))
    with pytest.raises(RunError, match=r"1 of 36 trials were run by another version of voxmim's code.*another folder"):
        study_run.again(out)


def test_a_plan_estimates_trials_hours_and_disk_and_trains_nothing(study_run: StudyRun, tmp_path: Path) -> None:
    plan = dict(study_run.again(tmp_path / "out", labels=["0.5"], plan_only=True)["plan"])
    assert plan["trials"] == "31: 6 pre-trainings, 15 fine-tunings, 10 evaluations"
    assert plan["done before"] == "0"
    assert float(plan["hours"].split(",")[0]) > 0
    assert float(plan["disk"].split()[0]) >= 0
    assert not (tmp_path / "out" / "trials").exists()
    again = dict(study_run.again(study_run.out, labels=["0.5"], plan_only=True)["plan"])
    assert (again["done before"], again["hours"].split(",")[0], again["disk"]) == ("31", "0", "0.00 GB")

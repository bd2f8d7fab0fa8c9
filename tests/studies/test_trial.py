from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import voxmim
from command_line import parsed
from conftest import Tiny
from voxmim.recipe import load_recipe
from voxmim.settings import Training
from voxmim.store.format import Store
from voxmim.studies import trial as module
from voxmim.studies.trial import Note, Trial, note_of, run_trial
from voxmim.tasks.cases import labelled_train_cases
from voxmim.training.run import Run


def trials(tiny: Tiny, **settings: Any) -> tuple[Trial, Trial, Trial]:
    """A pre-training, a fine-tuning from it, and its evaluation."""
    recipe = load_recipe(tiny.recipe, settings)
    pretrain = Trial("pretrain", tiny.store, recipe)
    finetune = Trial("finetune", tiny.store, recipe, "0.5", pretrain)
    return pretrain, finetune, Trial("evaluate", tiny.store, recipe, start=finetune)


# Names: equal for equal work only


@pytest.mark.parametrize(
    ("setting", "value", "differs"),
    [
        ("finetune.lr", 3e-4, (False, True)),
        ("unetr.feature_size", 8, (False, True)),
        ("overlap", 0.5, (False, True)),
        ("pretrain.steps", 9, (True, True)),
        ("mask.ratio", 0.5, (True, True)),
        ("vit.depth", 1, (True, True)),
        ("seed", 1, (True, True)),
        ("lrs", [1e-2], (False, False)),
        ("swin.width", 48, (False, False)),
        ("simclr.temperature", 0.5, (False, False)),
        ("about", "other words", (False, False)),
    ],
)
def test_a_name_depends_on_the_settings_that_the_trial_uses(
    tiny: Tiny, setting: str, value: Any, differs: tuple[bool, bool]
) -> None:
    before, after = trials(tiny), trials(tiny, **{setting: value})
    assert tuple(a.name != b.name for a, b in zip(before[:2], after[:2], strict=True)) == differs
    assert (before[2].name != after[2].name) == differs[1]


def test_unused_settings_are_defaults_in_the_recipe_of_a_trial(tiny: Tiny) -> None:
    pretrain, finetune, _ = trials(tiny, **{"finetune.steps": 99, "pretrain.steps": 98, "mask.ratio": 0.5})
    assert pretrain.own_recipe.finetune == Training()
    assert finetune.own_recipe.pretrain == Training()
    assert (pretrain.own_recipe.pretrain.steps, pretrain.own_recipe.mask.ratio) == (98, 0.5)
    assert (finetune.own_recipe.finetune.steps, finetune.own_recipe.mask.ratio) == (99, 0.75)


def test_a_fine_tuning_from_scratch_does_not_depend_on_the_pretext(tiny: Tiny) -> None:
    names = {
        Trial("finetune", tiny.store, load_recipe(tiny.recipe, {"pretext": pretext, "mask.ratio": ratio}), "2").name
        for pretext, ratio in (("mae", 0.5), ("simmim", 0.75), ("simclr", 0.75))
    }
    assert len(names) == 1


def test_a_name_depends_on_labels_initial_weights_and_data(tiny: Tiny, tmp_path: Path) -> None:
    _, finetune, _ = trials(tiny)
    moved = shutil.copytree(tiny.store, tmp_path / "moved")
    index = json.loads((moved / "index.json").read_text())
    assert replace(finetune, store=moved).name == finetune.name
    index["cases"][0]["split"] = "test"
    (moved / "index.json").write_text(json.dumps(index))
    count = len(labelled_train_cases(Store(tiny.store), "0.5", 0))
    assert replace(finetune, labels=str(count)).name == finetune.name  # the same cases written differently
    others = {
        replace(finetune, labels=str(count + 1)).name,
        replace(finetune, start=None).name,
        replace(finetune, store=moved).name,
    }
    assert len(others | {finetune.name}) == 4


def test_a_name_depends_on_the_code(tiny: Tiny) -> None:
    pretrain, finetune, evaluation = trials(tiny)
    assert pretrain.source == module.source_hash()
    assert all(replace(trial, source="other").name != trial.name for trial in (pretrain, finetune, evaluation))
    assert replace(finetune, start=replace(pretrain, source="other")).name != finetune.name


def test_the_code_hash_depends_on_files_that_influence_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = shutil.copytree(Path(voxmim.__file__).parent, tmp_path / "voxmim", ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(module, "__file__", str(package / "studies" / "trial.py"))
    hashed = module.source_hash.__wrapped__
    before = hashed()
    assert before == module.source_hash()
    for file, differs in (("report/page.py", False), ("tasks/metrics.py", True), ("recipe.py", True)):
        text = (package / file).read_text()
        (package / file).write_text(f"{text}# changed")
        assert (hashed() != before) == differs, file
        (package / file).write_text(text)


def test_a_worker_with_other_code_refuses_trials(tiny: Tiny, tmp_path: Path) -> None:
    note = run_trial(replace(trials(tiny)[0], source="other"), tmp_path)
    assert (note.state, note.error) == ("failed", "this worker has another version of voxmim's code")
    assert not (tmp_path / module.TRIALS).exists()


# Running trials


def test_a_finished_trial_is_not_run_again(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = [run_trial(trial, tmp_path) for trial in trials(tiny)]
    assert [note.state for note in notes] == ["done"] * 3
    assert all(note.machine and note.seconds >= 0 for note in notes)
    finetuned = trials(tiny)[1].path(tmp_path)
    assert trials(tiny)[2].result(tmp_path) == finetuned / "evaluation-test.json"
    result = json.loads((finetuned / "evaluation-test.json").read_text())
    assert [case["case"] for case in result["cases"]] == ["case_6", "case_7"]
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("it was done again"))
    assert [run_trial(trial, tmp_path) for trial in trials(tiny)] == notes


def test_a_trial_without_its_initial_weights_is_skipped(tiny: Tiny, tmp_path: Path) -> None:
    pretrain, finetune, evaluation = trials(tiny)
    note = run_trial(finetune, tmp_path)
    assert (note.state, note.error) == ("skipped", f"{pretrain.name}, from which it starts, is missing")
    assert run_trial(evaluation, tmp_path).state == "skipped"
    assert note_of(finetune, tmp_path) is None  # a later attempt is possible


def test_a_failed_trial_is_recorded_and_run_again(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain = trials(tiny)[0]
    with monkeypatch.context() as patched:
        patched.setattr(module, "pretrain", lambda *_: [][0])
        note = run_trial(pretrain, tmp_path)
    assert (note.state, note.error) == ("failed", "IndexError: list index out of range")
    assert note_of(pretrain, tmp_path) == note
    assert run_trial(pretrain, tmp_path).state == "done"


def test_a_stopped_trial_continues_from_its_checkpoint(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    pretrain = trials(tiny)[0]
    save, saved = Run.save_checkpoint, []

    def stopped(run: Run, state: dict[str, Any]) -> None:
        save(run, state)
        saved.append(state["step"])
        if state["step"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save_checkpoint", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_trial(pretrain, tmp_path)
        assert note_of(pretrain, tmp_path) is None
        assert run_trial(pretrain, tmp_path).state == "done"
    assert saved == [2, 4, 6]
    whole = run_trial(pretrain, tmp_path / "whole")
    assert whole.state == "done"
    losses = [[row["loss"] for row in Run.open(pretrain.path(out)).metrics()] for out in (tmp_path, tmp_path / "whole")]
    assert losses[0] == losses[1]


def test_a_trial_with_a_missing_result_is_run_again(tiny: Tiny, tmp_path: Path) -> None:
    pretrain = trials(tiny)[0]
    run_trial(pretrain, tmp_path)
    shutil.rmtree(pretrain.path(tmp_path))
    assert run_trial(pretrain, tmp_path).state == "done"
    assert pretrain.result(tmp_path).is_file()


def test_an_incomplete_run_folder_is_started_again(tiny: Tiny, tmp_path: Path) -> None:
    pretrain = trials(tiny)[0]
    (pretrain.path(tmp_path)).mkdir(parents=True)
    (pretrain.path(tmp_path) / "recipe.yaml").write_text("about: cut o")
    assert run_trial(pretrain, tmp_path).state == "done"


def test_the_command_of_a_trial_repeats_it(tiny: Tiny, tmp_path: Path) -> None:
    pretrain, finetune, evaluation = trials(tiny)
    for trial in (pretrain, finetune):
        assert run_trial(trial, tmp_path).state == "done"
    for trial in (pretrain, finetune, evaluation):
        program, *arguments = shlex.split(trial.command(tmp_path))
        assert program == "voxmim"
        result = parsed(arguments)
        assert result.command == trial.kind
    arguments = shlex.split(finetune.command(tmp_path))[1:]
    result = parsed(arguments)
    from voxmim import api

    again = api.finetune(result.store, tmp_path / "again", result.init, result.labels, result.recipe, result.settings)
    traces = [[(row["lr"], row["loss"]) for row in Run.open(run).metrics()] for run in (again, finetune.path(tmp_path))]
    assert traces[0] == traces[1]


def test_a_note_is_read_back_from_its_file(tiny: Tiny, tmp_path: Path) -> None:
    pretrain = trials(tiny)[0]
    note = Note(pretrain.name, "failed", 1.5, 'a "word" [x]', "a machine")
    (tmp_path / module.TRIALS).mkdir()
    (tmp_path / module.TRIALS / f"{pretrain.name}.json").write_text(json.dumps(note.__dict__))
    assert note_of(pretrain, tmp_path) == note

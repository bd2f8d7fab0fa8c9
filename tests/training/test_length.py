"""`finetune.steps: null`: the number of steps follows from the training cases and is then fixed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Sorted, Tiny
from voxmim import api
from voxmim.cli import main
from voxmim.recipe import load_recipe
from voxmim.store.format import Store
from voxmim.training import length
from voxmim.training.length import steps_for, with_steps
from voxmim.training.plan import for_hours
from voxmim.training.run import Run

OPEN = {"finetune.steps": None}
CROP = (10, 20, 5)  # 1000 voxels


@pytest.fixture
def three_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int, int], int]]:
    """Make the rule always return three steps, and record its arguments in this list."""
    given: list[tuple[int, tuple[int, int, int], int]] = []
    monkeypatch.setattr(length, "steps_for", lambda *what: given.append(what) or 3)
    return given


@pytest.mark.parametrize(
    ("steps_of_pass", "steps"), [(0.1, 800), (1, 800), (8, 1200), (27, 1800), (64, 2400), (1000, 6000)]
)
def test_the_steps_are_600_times_the_cube_root_of_a_pass(steps_of_pass: float, steps: int) -> None:
    assert steps_for(round(steps_of_pass * 2 * 1000), CROP, batch=2) == steps


def test_larger_batches_and_crops_need_fewer_steps_per_pass() -> None:
    assert steps_for(128_000, CROP, batch=2) == 2400
    assert steps_for(128_000, CROP, batch=16) == 1200
    assert steps_for(128_000, (20, 40, 10), batch=2) == 1200


# The rows of the table in docs/methods.md, by the voxels of the scans
@pytest.mark.parametrize(
    ("voxels", "steps"),
    [(196_560, 800), (979_566, 1000), (9_660_202, 2100), (1_785_360, 1200), (3_529_675, 1500), (31_874_574, 3100)],
)
def test_the_measured_trainings_have_the_documented_steps(voxels: int, steps: int) -> None:
    assert steps_for(voxels, (48, 48, 48), load_recipe("resenc-tiny").finetune.batch) == steps


def test_the_default_recipe_derives_its_steps_from_the_data_and_the_demo_does_not() -> None:
    assert load_recipe(api.training.DEFAULT_RECIPE).finetune.steps_from_data
    assert load_recipe("demo").finetune.steps == 500


def test_steps_of_a_recipe_are_kept(tiny: Tiny) -> None:
    recipe = load_recipe(tiny.recipe)
    assert with_steps(recipe, list(Store(tiny.store).cases.values())) is recipe


def test_a_run_saves_the_steps_of_the_rule_and_prints_them(
    tiny: Tiny, tmp_path: Path, three_steps: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, settings=OPEN, labels=2))
    voxels = sum(math.prod(Store(tiny.store).cases[name].shape) for name in run.about["cases"])
    assert three_steps == [(voxels, (12, 12, 12), 2)]
    assert (run.recipe().finetune.steps, run.metrics()[-1]["step"]) == (3, 3)
    line = (
        f"Fine-tuning takes 3 steps, from 2 cases of {voxels:,} voxels together; change them with --steps or --hours."
    )
    assert line in capsys.readouterr().out


def test_a_resumed_run_keeps_its_number_of_steps(
    tiny: Tiny, tmp_path: Path, three_steps: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, settings=OPEN, labels=2)
    three_steps.clear()
    (run / "last.ckpt").unlink()  # as if stopped before the first step
    capsys.readouterr()
    api.finetune(tiny.store, run, resume=True)
    assert Run.open(run).metrics()[-1]["step"] == 3
    assert not three_steps
    assert "Fine-tuning takes" not in capsys.readouterr().out


def test_steps_on_the_command_line_replace_the_rule(
    tiny: Tiny, tmp_path: Path, three_steps: list[tuple[int, ...]]
) -> None:
    options = ["--recipe", str(tiny.recipe), "--set", "finetune.steps=null", "--steps", "2"]
    with pytest.raises(SystemExit) as exit_info:
        main(["finetune", str(tiny.store), str(tmp_path / "run"), *options])
    assert exit_info.value.code == 0
    assert Run.open(tmp_path / "run").recipe().finetune.steps == 2
    assert not three_steps


def test_hours_scale_validations_relative_to_the_steps_of_the_rule(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(length, "steps_for", lambda *_: 1000)
    recipe = load_recipe(tiny.recipe, {**OPEN, "finetune.validate_every": 100})
    training = for_hours(Store(tiny.store), recipe, 1.0, "finetune", labels="2").finetune
    assert training.steps > 1000
    assert training.steps / training.validate_every == pytest.approx(10, rel=0.01)
    assert "Fine-tuning takes" not in capsys.readouterr().out


def test_the_rule_counts_the_training_scans_of_a_classifier(
    tiny_sorted: Sorted, tmp_path: Path, three_steps: list[tuple[int, ...]]
) -> None:
    options = {"task": "classification", "classes": tiny_sorted.classes, "recipe": tiny_sorted.recipe}
    run = Run.open(api.finetune(tiny_sorted.store, tmp_path / "run", settings=OPEN, **options))
    shapes = [Store(tiny_sorted.store).cases[name].shape for name in run.about["cases"]]
    assert [voxels for voxels, *_ in three_steps] == [sum(map(math.prod, shapes))]
    assert run.metrics()[-1]["step"] == 3


def test_a_pre_training_needs_a_number_of_steps(tiny: Tiny) -> None:
    recipe = load_recipe(tiny.recipe)
    with pytest.raises(ValueError, match=r"pretrain\.steps is None, but must be at least 1"):
        replace(recipe, pretrain=replace(recipe.pretrain, steps=None))  # type: ignore[arg-type]

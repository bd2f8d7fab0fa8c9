from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RecipeError, StoppedError
from voxmim.recipe import load_recipe
from voxmim.settings import Training
from voxmim.store.format import Store
from voxmim.training.plan import Plan, for_hours
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder


def test_the_figures_of_a_plan_agree_with_the_training(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = api.plan(tiny_runs.store, tiny_runs.recipe, {"pretrain.steps": 1000})
    assert list(tmp_path.iterdir()) == []
    assert plan.encoder_parameters == sum(p.numel() for p in load_encoder(tiny_runs.pretrain).parameters())
    assert plan.parameters == sum(
        t.numel() for t in read_weights(tiny_runs.pretrain / "pretext.safetensors")[0].values()
    )
    assert (plan.steps, plan.crops, plan.on_gpu) == (1000, 2, False)
    assert 1e8 < plan.memory < 1e11
    assert 0 < plan.step_seconds < 5
    parts = [1000 * plan.step_seconds, 334 * plan.validation_seconds, 500 * plan.checkpoint_seconds]
    assert plan.seconds == pytest.approx(sum(parts))
    assert plan.store_bytes == sum(file.stat().st_size for file in tiny_runs.store.rglob("*") if file.is_file())
    written = ["last.ckpt", "encoder.safetensors", "pretext.safetensors"]
    sizes = sum((tiny_runs.pretrain / name).stat().st_size for name in written)
    assert plan.run_bytes == pytest.approx(sizes, rel=0.01)


def test_the_command_prints_a_table_and_writes_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", str(tiny.store), str(tmp_path / "run"), "--recipe", str(tiny.recipe), "--plan-only"]
    with pytest.raises(SystemExit) as exit_info:
        main(command)
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for words in ("6 steps of 2 crops", "parameters", "memory of a process", "steps/s", "hours to the end", "store"):
        assert words in output
    assert "done:" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [["--resume"], ["--hours", "1"]])
def test_a_plan_is_refused_if_the_length_is_unknown(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["pretrain", str(tiny.store), str(tmp_path / "run"), "--plan-only", *option])
    assert exit_info.value.code == 2
    assert "leave out --resume and --hours" in capsys.readouterr().err


def test_the_plan_of_a_fine_tuning_loads_its_initial_weights(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    plan = api.plan(tiny_runs.store, kind="finetune", init=tiny_runs.pretrain, labels=1, settings={"finetune.steps": 7})
    assert (plan.kind, plan.steps) == ("finetune", 7)
    assert plan.encoder_parameters == sum(p.numel() for p in load_encoder(tiny_runs.pretrain).parameters())


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_hours_are_converted_to_the_steps_that_fit_into_them(
    tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(tiny.recipe, {f"{kind}.steps": 100, f"{kind}.validate_every": 10})
    measured = SimpleNamespace(seconds=1800.0, training=getattr(recipe, kind))
    monkeypatch.setattr("voxmim.training.plan.plan", lambda *_, **__: measured)
    training = getattr(for_hours(Store(tiny.store), recipe, 2.0, kind), kind)
    assert (training.steps, training.validate_every) == (400, 40)


def test_a_training_with_hours_measures_its_speed_first(tiny: Tiny, tmp_path: Path) -> None:
    run = api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, labels=1, hours=1e-9)
    assert load_recipe(run / "recipe.yaml").finetune.steps == 1


def test_a_stopped_plan_does_not_mention_resuming(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Store, out: Path, *__: object, **___: object) -> None:
        raise StoppedError(out, 3, signal.SIGTERM)

    monkeypatch.setattr("voxmim.training.plan.pretrain", stop)
    with pytest.raises(StoppedError, match=r"^stopped while a few steps were timed; nothing was kept\.$"):
        api.plan(tiny.store, tiny.recipe)


def test_no_time_at_all_is_refused(tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match="--hours 0: give a time above 0"):
        for_hours(Store(tiny.store), load_recipe(tiny.recipe), 0)


def test_hours_are_measured_with_fold_and_labels(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = SimpleNamespace(seconds=3600.0, training=load_recipe(tiny.recipe).finetune)
    timed: dict[str, object] = {}

    def plan(*_: object, **options: object) -> SimpleNamespace:
        timed.update(options)
        return measured

    monkeypatch.setattr("voxmim.training.plan.plan", plan)
    api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, fold="1/2", labels=2, hours=1e-9)
    assert (timed["fold"], timed["labels"], timed["task"]) == ("1/2", "2", "segmentation")


def test_validations_beyond_their_fraction_of_the_time_are_not_counted() -> None:
    training = Training(steps=1000, validate_every=10, checkpoint_every=1000, validation_fraction=0.1)
    sizes = dict.fromkeys(("encoder_parameters", "parameters", "memory", "crops", "store_bytes", "run_bytes"), 0)

    def plan(kind: str, validation_seconds: float) -> Plan:
        return Plan(kind, training, **sizes, on_gpu=False, step_seconds=1.0, checkpoint_seconds=0.0,
                    validation_seconds=validation_seconds)  # fmt: skip

    assert plan("finetune", 20).seconds == 1000 + 5 * 20  # 5 validations take a tenth of the time of all steps
    assert plan("finetune", 100).seconds == 1000 + 3 * 100  # 3 are never skipped
    assert plan("finetune", 0.5).seconds == 1000 + 100 * 0.5
    assert plan("pretrain", 20).seconds == 1000 + 100 * 20

"""Store files that are damaged in the middle of a training: it goes on with the others, counts and names them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Tiny
from training.test_loop import Bench, settings
from voxmim import api
from voxmim.errors import TrainingError
from voxmim.recipe import load_recipe
from voxmim.store.format import Case, Store
from voxmim.store.writing import write_case
from voxmim.training.damage import Damage
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.training.step import Stepper
from voxmim.weights.files import read_weights


class Stopped(Exception):
    """In the place of a kill."""


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], object]]:
    """Fill it in: what happens after which step (from 1) of every training."""
    events: dict[int, Callable[[], object]] = {}
    step = Stepper.step

    def watched(self: Stepper, batch: Any, number: int) -> tuple[float, float]:
        done = step(self, batch, number)
        events.get(number + 1, lambda: None)()
        return done

    monkeypatch.setattr(Stepper, "step", watched)
    return events


@pytest.fixture
def own(tiny: Tiny, tmp_path: Path) -> Store:
    """The tiny store to damage: six scans to pre-train on, four of them with labels, two to validate on."""
    return Store(shutil.copytree(tiny.store, tmp_path / "store"))


def image(store: Store, name: str) -> Path:
    return store.path / "images" / f"{name}.b2nd"


def other_shape(store: Store, name: str) -> None:
    write_case(store.path, Case(name, "train", (9, 9, 9), ("x",)), np.zeros((1, 9, 9, 9), np.int16), None)


def trace(run: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(run).metrics()]


def pretrain_on(
    store: Store, run: Path, tiny: Tiny, changed: dict[str, Any] | None = None, resume: bool = False
) -> Path:
    """Without the report, which takes longer than all else."""
    return pretrain(Store(store.path), run, load_recipe(tiny.recipe, changed), resume).path


def stop() -> None:
    raise Stopped


def test_a_pretraining_goes_on_without_the_scans_that_are_damaged_meanwhile(
    tiny: Tiny, own: Store, tmp_path: Path, after_step: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).bytes(image(own, "case_2").stat().st_size)
    after_step |= {
        1: lambda: image(own, "case_0").unlink(),
        2: lambda: os.truncate(image(own, "case_1"), 500),
        3: lambda: image(own, "case_2").write_bytes(noise),
        4: lambda: other_shape(own, "case_3"),
    }
    changed = {"max_damaged": 0.5, "pretrain.steps": 12}
    run = api.pretrain(own.path, tmp_path / "run", tiny.recipe, changed)
    assert len(trace(run)) == 12
    damaged = json.loads((run / "run.json").read_text())["damaged"]
    kinds = {"case_0": "missing", "case_1": "damaged", "case_2": "damaged", "case_3": r"damaged"}
    assert set(damaged) == set(kinds)
    said, page = capsys.readouterr().out, (run / "report.html").read_text()
    for number, (name, kind) in enumerate(kinds.items(), start=1):
        assert number < damaged[name]["step"] <= number + 4  # a round of six scans is three steps
        assert damaged[name]["what"].startswith(f"{image(own, name)}: this file of the store is {kind}")
        assert said.count(f"{name} is left out from step {damaged[name]['step']} on: ") == 1
        assert f"{name} from step {damaged[name]['step']} on" in page
    assert "it holds (1, 9, 9, 9) int16, but (1, " in damaged["case_3"]["what"]


def test_over_the_share_it_ends_and_once_they_are_whole_it_goes_on_as_if_nothing_had_been(
    tiny: Tiny, own: Store, tmp_path: Path, after_step: dict
) -> None:
    straight = pretrain_on(own, tmp_path / "straight", tiny)
    kept = {name: image(own, name).read_bytes() for name in ("case_0", "case_1")}
    after_step[2] = lambda: [image(own, name).unlink() for name in kept]
    with pytest.raises(TrainingError) as ended:
        pretrain_on(own, tmp_path / "run", tiny, {"max_damaged": 0.125})
    said = str(ended.value)
    assert said.startswith(
        f"{tmp_path / 'run'}: 2 of 8 scans cannot be read any more, and max_damaged 0.125 allows 1: "
    )
    assert all(f"{image(own, name)}: this file of the store is missing" in said for name in kept)
    assert said.endswith("; prepare them again and --resume, or start anew with a higher max_damaged.")
    assert said.count(". ") == 0
    after_step.clear()
    for name, content in kept.items():
        image(own, name).write_bytes(content)
    resumed = pretrain_on(own, tmp_path / "run", tiny, resume=True)
    assert trace(resumed) == trace(straight)
    assert Run.open(resumed).about.get("damaged", {}) == {}


def test_the_first_ends_it_where_none_may_be_damaged(tiny: Tiny, own: Store, tmp_path: Path, after_step: dict) -> None:
    after_step[1] = lambda: image(own, "case_1").unlink()
    with pytest.raises(TrainingError, match=r"1 of 8 scans cannot be read any more, and max_damaged 0 allows 0"):
        pretrain_on(own, tmp_path / "run", tiny, {"max_damaged": 0})


def test_a_resumed_run_leaves_out_what_was_left_out_before_it_stopped(
    tiny: Tiny, own: Store, tmp_path: Path, after_step: dict
) -> None:
    kept = image(own, "case_1").read_bytes()
    changed = {"max_damaged": 0.2, "pretrain.steps": 9}
    after_step[1] = lambda: image(own, "case_1").unlink()
    straight = pretrain_on(own, tmp_path / "straight", tiny, changed)
    image(own, "case_1").write_bytes(kept)
    after_step[7] = stop
    with pytest.raises(Stopped):
        pretrain_on(own, tmp_path / "run", tiny, changed)
    image(own, "case_1").write_bytes(kept)  # whole again, but the run has gone on without it
    after_step.clear()
    resumed = pretrain_on(own, tmp_path / "run", tiny, resume=True)
    assert trace(resumed) == trace(straight)
    assert list(Run.open(resumed).about["damaged"]) == ["case_1"]


def test_a_finetuning_goes_on_without_a_validation_scan_and_looks_for_its_best_step_anew(
    tiny: Tiny, own: Store, tmp_path: Path, after_step: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    after_step |= {
        4: lambda: (own.path / "labels" / "case_5.b2nd").unlink(),
        5: lambda: (own.path / "labels" / "case_0.b2nd").unlink(),
    }
    recipe = load_recipe(tiny.recipe, {"max_damaged": 0.4, "finetune.steps": 9})
    run = finetune(own, tmp_path / "run", recipe)[0].path
    first, second, third = [row for row in trace(run) if "val_dice" in row]
    assert {"case case_4", "case case_5"} <= set(first)
    for row in (second, third):
        assert "case case_5" not in row
        assert row["val_dice"] == row["case case_4"]
    assert set(json.loads((run / "run.json").read_text())["damaged"]) == {"case_0", "case_5"}
    assert "Validation figures from step 6 on are of 1 of 2 scans: do not compare them" in capsys.readouterr().out
    assert read_weights(run / "segmentor.safetensors")[1]["step"] in (6, 9)


def test_without_a_validation_scan_left_it_ends(tiny: Tiny, own: Store, tmp_path: Path, after_step: dict) -> None:
    after_step[1] = lambda: [image(own, name).unlink() for name in ("case_4", "case_5")]
    with pytest.raises(TrainingError, match=r"2 of 8 scans cannot be read any more, and no validation scan is left: "):
        pretrain_on(own, tmp_path / "run", tiny, {"max_damaged": 1})


def test_the_best_step_is_forgotten_when_the_validation_scans_are_no_longer_the_same(tmp_path: Path) -> None:
    damage = Damage(["a"], ["b", "c"], most=0.5)
    found = {1: 0.2, 2: 0.9, 3: 0.3, 4: 0.4, 5: 0.35, 6: 0.4, 7: 0.1}

    def scores(step: int) -> dict[str, float]:
        if step == 3:
            damage.found["c"] = "c.b2nd: this file of the store is missing; prepare it again."
        return {"val": found[step]}

    bench = Bench(settings(validate_every=1), better="val", scores=scores, damage=damage)
    bench.run(tmp_path / "run")
    assert bench.saved == [1, 2, 3, 4]


def test_processes_tell_each_other_what_they_found() -> None:
    class Two:
        world_size = 2

        def broadcast(self, own: dict[str, str], src: int) -> dict[str, str]:
            return [own, {"b": "as process 1 has it", "a": "as process 1 has it"}][src]

    damage = Damage(found={"a": "as process 0 has it"})
    damage.meet(Two())  # type: ignore[arg-type]
    assert damage.found == {"a": "as process 0 has it", "b": "as process 1 has it"}

"""Unreadable scans are skipped during training and named once; too many of them end the training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import Tiny
from voxmim.errors import StoreError, TrainingError
from voxmim.recipe import load_recipe
from voxmim.store.format import Store
from voxmim.training.damage import Damage
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run


@pytest.fixture
def damaged(tiny: Tiny, tmp_path: Path) -> Store:
    """The tiny store without the images of a train case and a validation case."""
    store = Store(shutil.copytree(tiny.store, tmp_path / "store"))
    for name in ("case_0", "case_4"):
        (store.path / "images" / f"{name}.b2nd").unlink()
    return store


def test_a_training_continues_without_unreadable_scans_and_names_each_once(
    tiny: Tiny, damaged: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(damaged, tmp_path / "run", load_recipe(tiny.recipe, {"max_damaged": 0.5}))
    assert len(run.metrics()) == 6
    output = capsys.readouterr().out
    assert output.count("case_0 is skipped from here on: ") == 1
    assert f"{damaged.path / 'images' / 'case_0.b2nd'}: this file of the store is missing" in output


def test_a_fine_tuning_validates_on_readable_scans(tiny: Tiny, damaged: Store, tmp_path: Path) -> None:
    run, _ = finetune(damaged, tmp_path / "run", load_recipe(tiny.recipe, {"max_damaged": 0.5}))
    last = run.metrics()[-1]
    assert last["val_dice"] == last["case case_5"]
    assert "case case_4" not in last


def test_too_many_unreadable_scans_end_the_training(tiny: Tiny, damaged: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"1 of 8 scans cannot be read \(case_0\), and max_damaged 0 allows 0; pre"):
        pretrain(damaged, tmp_path / "run", load_recipe(tiny.recipe, {"max_damaged": 0}))


def test_a_training_resumes_once_the_files_are_restored(tiny: Tiny, damaged: Store, tmp_path: Path) -> None:
    recipe = load_recipe(tiny.recipe, {"max_damaged": 0})
    with pytest.raises(TrainingError):
        pretrain(damaged, tmp_path / "run", recipe)
    for name in ("case_0", "case_4"):
        shutil.copy(tiny.store / "images" / f"{name}.b2nd", damaged.path / "images")
    pretrain(Store(damaged.path), tmp_path / "run", recipe, resume=True)
    assert len(Run.open(tmp_path / "run").metrics()) == 6


def test_an_unreadable_scan_is_not_tried_again(tiny: Tiny) -> None:
    store, tried = Store(tiny.store), []

    def read(case: object) -> int:
        tried.append(case)
        if len(tried) == 1:
            raise StoreError("gone.")
        return len(tried)

    damage, cases = Damage(2, 1.0), store.in_split("val")
    assert [(cases.index(case), value) for case, value in damage.readable(cases, read)] == [(1, 2)]
    assert [(cases.index(case), value) for case, value in damage.readable(cases, read)] == [(1, 3)]
    assert damage.errors == {"case_4": "gone."}

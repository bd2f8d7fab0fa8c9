"""The recipes of a study's arms, of which the steps may follow from its labelled cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from conftest import Tiny
from voxmim.store.format import Store
from voxmim.studies import convergence, labels, unlabelled
from voxmim.studies.request import Request, ready
from voxmim.tasks.cases import labelled_train_cases
from voxmim.training import length


@pytest.fixture
def request_of(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A request for the tiny store with so many labels, whose rule finds a step for each 1000 voxels."""
    monkeypatch.setattr(length, "steps_for", lambda voxels, crop, batch: voxels // 1000)

    def make(*numbers: str, **settings: Any) -> Request:
        told = {"finetune.steps": None, "finetune.ema": 0.9, **settings}
        return Request((tiny.store,), tmp_path, tiny.recipe, told, numbers)

    return make


def steps_of(request: Request, number: str | None) -> int:
    """What the rule of `request_of` finds for so many labels, drawn by the first seed."""
    cases = labelled_train_cases(Store(request.stores[0]), number, 0)
    return sum(math.prod(case.shape) for case in cases) // 1000


def test_all_arms_have_the_steps_that_suit_the_labels(request_of: Any) -> None:
    request = request_of("2")
    steps = steps_of(request, "2")
    arms = ready(convergence.arms(request), [0, 1])
    assert [arm.recipe.finetune.steps for arm in arms] == [steps, 2 * steps, steps, steps, steps]
    assert {arm.finetune(1, 1e-3).recipe.finetune.steps for arm in arms} == {steps, 2 * steps}


def test_arms_with_several_numbers_of_labels_have_the_steps_of_the_largest(request_of: Any) -> None:
    request = request_of("1", "3")
    assert request.base.finetune.steps == steps_of(request, "3")
    assert len({arm.recipe.finetune.steps for arm in unlabelled.arms(request) if "twice" not in arm.name}) == 1
    request = request_of(*labels.NUMBERS)
    assert {arm.recipe.finetune.steps for arm in labels.arms(request)} == {steps_of(request, None)}


def test_the_steps_are_told_once_and_how_to_change_them(request_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready(convergence.arms(request_of("2")), [0])
    said = capsys.readouterr().out
    assert said.count("Fine-tuning takes") == 1
    assert "change them with --set finetune.steps=N." in said


def test_steps_that_are_given_need_no_store(tmp_path: Path, tiny: Tiny) -> None:
    request = Request((tmp_path / "nowhere",), tmp_path, tiny.recipe, {"finetune.steps": 7}, ("2",))
    assert request.base.finetune.steps == 7

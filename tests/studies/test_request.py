"""The recipes of the arms of a study, whose steps may depend on its labelled cases."""

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
    """Return make(numbers, ...), a request for the tiny store with a rule of one step per 1000 voxels."""
    monkeypatch.setattr(length, "steps_for", lambda voxels, crop, batch: voxels // 1000)

    def make(*numbers: str, **settings: Any) -> Request:
        all_settings = {"finetune.steps": None, "finetune.ema": 0.9, **settings}
        return Request((tiny.store,), tmp_path, tiny.recipe, all_settings, numbers)

    return make


def steps_of(request: Request, number: str | None) -> int:
    """The steps by the rule of `request_of` for a number of labels, drawn with the first seed."""
    cases = labelled_train_cases(Store(request.stores[0]), number, 0)
    return sum(math.prod(case.shape) for case in cases) // 1000


def test_all_arms_have_the_number_of_steps_for_the_labelled_cases(request_of: Any) -> None:
    request = request_of("2")
    steps = steps_of(request, "2")
    arms = ready(convergence.arms(request), [0, 1])
    assert [arm.recipe.finetune.steps for arm in arms] == [steps, 2 * steps, steps, steps, steps]
    assert {arm.finetune(1, 1e-3).recipe.finetune.steps for arm in arms} == {steps, 2 * steps}


def test_with_several_numbers_of_labels_all_arms_have_the_steps_of_the_largest(request_of: Any) -> None:
    request = request_of("1", "3")
    assert request.base.finetune.steps == steps_of(request, "3")
    assert len({arm.recipe.finetune.steps for arm in unlabelled.arms(request) if "twice" not in arm.name}) == 1
    request = request_of(*labels.NUMBERS)
    assert {arm.recipe.finetune.steps for arm in labels.arms(request)} == {steps_of(request, None)}


def test_the_steps_and_how_to_change_them_are_printed_once(request_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ready(convergence.arms(request_of("2")), [0])
    output = capsys.readouterr().out
    assert output.count("Fine-tuning takes") == 1
    assert "change them with --set finetune.steps=N." in output


def test_given_steps_need_no_store(tmp_path: Path, tiny: Tiny) -> None:
    request = Request((tmp_path / "nowhere",), tmp_path, tiny.recipe, {"finetune.steps": 7}, ("2",))
    assert request.base.finetune.steps == 7

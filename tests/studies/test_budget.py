from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Tiny
from voxmim.errors import RunError
from voxmim.settings import Recipe
from voxmim.store.format import Store
from voxmim.studies import budget, convergence
from voxmim.studies.arm import Arm
from voxmim.studies.asked import Asked, ready
from voxmim.studies.budget import Size, choose, in_words, seconds_of, sized
from voxmim.training.plan import Plan

SETTINGS = {
    "finetune.steps": 100, "finetune.validate_every": 10, "pretrain.steps": 200, "pretrain.validate_every": 50,
    "rates": [1e-3, 3e-4],
}  # fmt: skip


@pytest.fixture
def arms(tiny: Tiny, tmp_path: Path) -> list[Arm]:
    """Those of the study of convergence: five fine-tunings, one of twice the steps, and three pre-trainings."""
    return ready(convergence.arms(Asked((tiny.store,), tmp_path, tiny.recipe, SETTINGS, ("all",))), range(3))


def clock(step: float, validation: float = 0.0) -> Any:
    """A machine on which every step of every training takes so long, and nothing else takes any time."""

    def measure(store: Store, recipe: Recipe, kind: str, labels: str | None) -> Plan:
        return Plan(1, 1, 1, False, 1, 1, step, validation, 0.0, 1.0, 1, 1)

    return measure


def test_times_are_read() -> None:
    assert [seconds_of(text) for text in ("30s", "90m", "2h", "1.5d", "2 h")] == [30, 5400, 7200, 129600, 7200]
    for text in ("2", "h", "two hours", "0h", "-1h"):
        with pytest.raises(RunError, match=r"write it as 90m, 2h or 1\.5d"):
            seconds_of(text)


def all_steps(seeds: int, rates: int) -> int:
    """Steps of all trainings, counted by hand: MAE, SimMIM in as long, SimCLR in a quarter; four arms, one of twice."""
    return seeds * (200 + 120 + 30) + (4 * 100 + 200) * (rates + seeds - 1)


def test_all_steps_are_taken_where_they_fit(arms: list[Arm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    size = choose(arms, 3, False, 1e6, clock(1.0))
    assert (size.share, size.seeds, size.rates, size.validations) == (1.0, 3, 2, 1.0)
    assert size.seconds == all_steps(3, 2)
    whole = sized(arms, size)
    assert [arm.recipe.finetune.steps for arm in whole] == [100, 200, 100, 100, 100]
    assert "all of the recipe's steps are taken (fine-tuning: 100), 3 seed(s)" in in_words("300h", size, whole)


def test_the_same_share_of_each_training_is_left_out_where_they_do_not_fit(
    arms: list[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    time = 0.5 * all_steps(3, 2) / (1 - budget.RESERVE)
    size = choose(arms, 3, False, time, clock(1.0))
    assert (size.share, size.seeds, size.rates, size.validations) == (0.5, 3, 2, 1.0)
    assert size.seconds == pytest.approx(0.5 * all_steps(3, 2))
    cut = sized(arms, size)
    assert [arm.recipe.finetune.steps for arm in cut] == [50, 100, 50, 50, 50]  # twice stays twice
    assert [arm.recipe.finetune.validate_every for arm in cut] == [5] * 5  # as many validations as before
    starts = {arm.name: arm.pretraining.recipe.pretrain.steps for arm in cut if arm.pretraining}
    assert starts == {"SimCLR": 15, "SimMIM": 60, "MAE": 100}


def test_what_costs_least_is_saved_first(arms: list[Arm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    found = []
    for part in (0.3, 0.2, 0.15, 0.1, 0.05):
        size = choose(arms, 3, False, part * all_steps(3, 2) / (1 - budget.RESERVE), clock(1.0))
        found.append((size.seeds, size.rates, size.validations))
        assert size.seconds <= part * all_steps(3, 2)
    assert found == [(3, 2, 1.0), (2, 2, 0.5), (2, 1, 0.5), (1, 1, 0.5), (1, 1, 0.5)]
    told = choose(arms, 3, True, 0.1 * all_steps(3, 2), clock(1.0))
    assert told.seeds == 3
    assert "one learning rate for all arms, not each its own" in in_words("1h", told, sized(arms, told))


def test_validations_and_evaluations_count(arms: list[Arm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    seconds = choose(arms, 1, True, 1e6, clock(0.0 + 1e-9, 1.0)).seconds
    pretrainings = 4 + 4 + 4  # SimCLR's steps are fewer, but so are those between two validations
    finetunings = 2 * (4 * 10 + 20)
    evaluations = 5 * 2 * budget.EVALUATION * 1.0 / 2  # two test cases; a validation is of two cases
    assert seconds == pytest.approx(pretrainings + finetunings + evaluations, abs=1e-3)


def test_too_little_is_refused(arms: list[Arm]) -> None:
    with pytest.raises(RunError, match=r"even the smallest study takes \d+\.\d minutes; give more"):
        choose(arms, 1, True, 1.0, clock(1.0))


def test_a_training_that_several_arms_share_is_tried_once(arms: list[Arm]) -> None:
    tried: list[tuple[str, str, str | None]] = []

    def measure(store: Store, recipe: Recipe, kind: str, labels: str | None) -> Plan:
        tried.append((kind, recipe.pretext if kind == "pretrain" else "", labels))
        return clock(1.0)(store, recipe, kind, labels)

    choose([*arms, *(replace(arm, name=f"{arm.name} again") for arm in arms)], 3, False, 1e6, measure)
    assert sorted(tried) == [
        ("finetune", "", None), ("pretrain", "mae", None), ("pretrain", "simclr", None), ("pretrain", "simmim", None),
    ]  # fmt: skip


def test_this_machine_is_measured(arms: list[Arm]) -> None:
    size = choose(arms[:1], 1, True, 3600.0)
    assert size.share == 1.0
    assert 0 < size.seconds < 3600
    assert isinstance(size, Size)

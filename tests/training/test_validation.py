"""Validation: which cases are scored when, what is reported, and which step is the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from voxmim.settings import Training
from voxmim.store.format import Case
from voxmim.training.damage import Damage
from voxmim.training.validation import Validation

CASES = [Case(f"case_{at}", "val", (8, 8, 8), ("x",)) for at in range(6)]


class Bench:
    """A validation of six cases of some windows each, whose scores are scripted by step.

    A step of two crops costs as much as six windows; validations are ten steps apart, so 10 % are six windows.
    """

    def __init__(self, quality: Mapping[int, float], fraction: float = 0.1, windows: int = 4) -> None:
        self.quality, self.step, self.scored = quality, 0, []
        training = Training(steps=100, batch=2, validate_every=10, validation_fraction=fraction)
        self.validation = Validation(CASES, [windows] * 6, self.score, self.figures, "val_dice", training, Damage())

    def score(self, case: Case) -> float:
        self.scored.append(case.name)
        return self.quality[self.step] + 0.01 * int(case.name[-1])

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        return {"val_dice": sum(scores.values()) / len(scores)} if scores else {}

    def run(self, *steps: int) -> list[list[str]]:
        """The cases that are scored after each step."""
        found = []
        for self.step in steps:
            self.scored = []
            self.validation(self.step)
            found.append([name[-1] for name in self.scored])
        return found


def test_cases_take_turns() -> None:
    bench = Bench(dict.fromkeys(range(0, 101, 10), 0.5))
    assert bench.run(10, 20, 30) == [["0"], ["1"], ["2"]]


def test_all_cases_are_scored_where_a_step_looks_best_and_time_allows() -> None:
    bench = Bench({10: 0.1, 20: 0.2, 30: 0.3, 40: 0.4, 50: 0.5, 60: 0.4}, windows=2)
    scored = bench.run(10, 20, 30, 40, 50, 60)
    assert [len(cases) for cases in scored] == [2, 2, 2, 6, 2, 2]  # 24 windows can be afforded after 40 steps
    assert bench.validation.state_dict()["best"] == pytest.approx(0.425)


def test_a_step_that_is_worse_on_the_same_cases_is_not_looked_into() -> None:
    bench = Bench({step: 1.0 - 0.005 * step for step in range(0, 101, 10)}, fraction=0.5)
    scored = bench.run(10, 20, 30, 40, 50)
    assert sorted(scored[0]) == ["0", "1", "2", "3", "4", "5"]
    assert all(len(cases) < 6 for cases in scored[1:])


def test_all_cases_are_scored_after_the_last_step() -> None:
    bench = Bench({90: 0.5, 100: 0.6})
    assert len(bench.run(90, 100)[1]) == 6
    assert bench.validation.improved


def test_the_time_stays_within_the_fraction() -> None:
    bench = Bench({step: 0.001 * step for step in range(0, 101, 10)})  # every step is the best so far
    windows = sum(4 * len(cases) for cases in bench.run(*range(10, 100, 10)))
    assert windows <= 0.1 * 3 * 2 * 90 + 4


def test_a_fraction_of_one_scores_all_cases_each_time() -> None:
    bench = Bench({10: 0.2, 20: 0.1}, fraction=1.0)
    assert [len(cases) for cases in bench.run(10, 20)] == [6, 6]
    assert not bench.validation.improved


def test_the_newest_score_of_each_case_is_reported() -> None:
    bench = Bench({10: 0.1, 20: 0.9})
    bench.run(10)
    bench.step = 20
    assert bench.validation(20)["val_dice"] == pytest.approx((0.1 + 0.91) / 2)


@pytest.mark.parametrize("stop", [10, 30, 40, 50])
def test_a_resumed_validation_goes_on_with_the_same_cases(stop: int) -> None:
    quality = {step: 0.3 + 0.1 * (step % 30) / 30 for step in range(0, 101, 10)}
    steps = range(10, 110, 10)
    straight = Bench(quality).run(*steps)
    first, second = Bench(quality), Bench(quality)
    before = first.run(*(step for step in steps if step <= stop))
    second.validation.load_state_dict(first.validation.state_dict())
    assert before + second.run(*(step for step in steps if step > stop)) == straight


def test_a_checkpoint_of_version_0_1_has_the_best_value_only() -> None:
    bench = Bench({100: 0.4})
    bench.validation.load_state_dict(0.5)
    bench.run(100)
    assert not bench.validation.improved

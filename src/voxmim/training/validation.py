"""Validation that takes a bounded fraction of a training's time, and the choice of the best step.

On the way, each validation scores the next few cases in turn; the reported figures are of the newest score of each
case. Where a step looks better than the best one on the same cases, and time allows, all cases are scored, and so they
are after the last step. Time is counted in forward passes of a crop: one per window of a case, and three per crop of a
training step (forward and backward). So which cases are scored does not depend on the machine, and a resumed run
validates the same ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxmim.settings import Training
from voxmim.store.format import Case
from voxmim.training.damage import Damage

_STEP_COST = 3.0  # forward passes that one crop of a training step takes


@dataclass
class Validation:
    """Validates the steps of one training."""

    cases: Sequence[Case]  # to validate on, in the order in which they take turns
    windows: Sequence[int]  # of each case, the windows that its prediction takes
    score_case: Callable[[Case], Any]  # what one case shows: plain numbers, lists and dicts, for checkpoints
    figures: Callable[[Mapping[str, Any]], dict[str, float]]  # of cases' scores, by name, the columns of metrics.csv
    score: str  # the column to choose the best step by (higher is better)
    training: Training  # its `validation_fraction` of 1 and more scores all cases each time
    damage: Damage  # knows the scans that cannot be read
    improved: bool = False  # whether the last validation was the best one so far

    def __post_init__(self) -> None:
        training = self.training
        interval = training.validation_fraction * _STEP_COST * training.batch * training.validate_every
        mean = max(1.0, sum(self.windows) / max(1, len(self.windows)))
        # Half of the time is for the turns, the other half for scoring all cases of promising steps.
        self._turn = min(len(self.cases), max(1, round(interval / mean / 2)))
        self._next, self._spent = 0, 0.0
        self._newest: dict[str, Any] = {}
        self._best_scores: dict[str, Any] = {}
        self._best = -math.inf

    def __call__(self, step: int) -> dict[str, float]:
        """Validate after a step: the columns of metrics.csv, and `improved`."""
        self.improved = False
        full = step >= self.training.steps or self.training.validation_fraction >= 1
        count = len(self.cases)
        turn = range(count) if full else [(self._next + at) % count for at in range(self._turn)]
        found = self._scored(turn)
        self._next = (self._next + len(turn)) % count
        merged = self._value(self._best_scores | found)
        rest = [index for index in range(count) if index not in turn]
        budget = self.training.validation_fraction * _STEP_COST * self.training.batch * step
        affordable = self._spent + sum(self.windows[index] for index in rest) <= budget
        if not full and merged > self._best and affordable:
            found |= self._scored(rest)
            full = True
        self._newest |= found
        if full and (value := self._value(found)) > self._best:
            self._best, self._best_scores, self.improved = value, found, True
        return self.figures(self._newest)

    def state_dict(self) -> dict[str, Any]:
        return {
            "next": self._next,
            "spent": self._spent,
            "newest": self._newest,
            "best_scores": self._best_scores,
            "best": self._best,
        }

    def load_state_dict(self, state: dict[str, Any] | float) -> None:
        """Continue from a state, or from the best value that a checkpoint of version 0.1 kept alone."""
        if not isinstance(state, dict):
            state = {"next": 0, "spent": 0.0, "newest": {}, "best_scores": {}, "best": float(state)}
        self._next, self._spent, self._best = state["next"], state["spent"], state["best"]
        self._newest, self._best_scores = dict(state["newest"]), dict(state["best_scores"])

    def _scored(self, indices: Sequence[int]) -> dict[str, Any]:
        self._spent += sum(self.windows[index] for index in indices)
        chosen = [self.cases[index] for index in indices]
        return {case.name: score for case, score in self.damage.readable(chosen, self.score_case)}

    def _value(self, scores: Mapping[str, Any]) -> float:
        return self.figures(scores).get(self.score, -math.inf)

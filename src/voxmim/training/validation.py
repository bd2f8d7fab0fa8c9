"""Validation in a bounded fraction of a training's time, and selection of the best step.

A validation scores all cases, so that the figures of two steps can be compared. If scans are large, it is skipped at
some of the steps that are due. It is never skipped at the first step, so that there is an early result, nor after three
quarters of the steps and at the end, which show whether the training is done (`plateau`).

Time is counted in forward passes of a crop: one per window of a case, and three per crop of a training step (forward
and backward). So the validated steps do not depend on the machine, and are the same in a resumed run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from voxmim.settings import Training
from voxmim.store.format import Case
from voxmim.training.damage import Damage
from voxmim.training.plateau import TAIL

NEVER_SKIPPED = 3  # validations: the first, the last, and the one after three quarters of the steps
_STEP_COST = 3  # forward passes that one crop of a training step takes


@dataclass
class Validation:
    """Validates the steps of one training."""

    cases: Sequence[Case]  # to validate on
    windows: int  # the number of windows in the predictions of all cases
    score_case: Callable[[Case], Any]
    figures: Callable[[Mapping[str, Any]], dict[str, float]]  # from the scores by case name to columns of metrics.csv
    score: str  # the column that selects the best step (higher is better)
    training: Training  # its `validation_fraction` of 1 or more skips no validation
    damage: Damage  # the scans that cannot be read
    improved: bool = False  # whether the last validation was the best one so far
    scores: Mapping[str, Any] = field(default_factory=dict)  # of the last validation, by case name

    def __post_init__(self) -> None:
        self._spent, self._best = 0, -math.inf

    def __call__(self, step: int) -> dict[str, float]:
        """Validate after a step, if there is time.

        Args:
            step: steps done; `validate_every` more than at the call before.

        Returns:
            The columns of metrics.csv; none if the validation is skipped.
        """
        self.improved = False
        if not self._has_time(step):
            return {}
        self._spent += self.windows
        self.scores = {case.name: score for case, score in self.damage.readable(self.cases, self.score_case)}
        found = self.figures(self.scores)
        if (value := found.get(self.score, -math.inf)) > self._best:
            self._best, self.improved = value, True
        return found

    def _has_time(self, step: int) -> bool:
        training = self.training
        late = (1 - TAIL) * training.steps  # from here on, a gain means that the training is not done
        needed = not self._spent or step >= training.steps or step <= late < step + training.validate_every
        budget = training.validation_fraction * _STEP_COST * training.batch * step
        return needed or training.validation_fraction >= 1 or self._spent + self.windows <= budget

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self._spent, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any] | float) -> None:
        """Continue from a state; checkpoints of version 0.1 have only the best score."""
        known: Mapping[str, Any] = state if isinstance(state, Mapping) else {"spent": 0, "best": state}
        self._spent, self._best = known["spent"], float(known["best"])

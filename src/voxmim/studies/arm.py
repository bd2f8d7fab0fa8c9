"""The arms of a study, and how they are compared: the same steps and labels for each, and for each its own rate.

Every arm is fine-tuned at each rate of the same small grid with the first seed. The rate with the best validation Dice
is the arm's, for all seeds. A seed fixes which labelled cases are drawn, the order of crops, their augmentation and all
weights that start from nothing; arms of one seed share the labelled cases. Test cases are looked at once, at the end,
by the runs that were chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from voxmim import workers
from voxmim.settings import Recipe
from voxmim.studies.trial import Note, Trial, carry_out
from voxmim.training.finetune import case_column
from voxmim.training.run import Run


@dataclass(frozen=True)
class Pretraining:
    """What an arm starts from: a store, and the settings of the pre-training on it."""

    store: Path
    recipe: Recipe


@dataclass(frozen=True)
class Arm:
    """One way to a segmentor.

    Attributes:
        name: what tables call it.
        store: of the fine-tuning.
        recipe: of the fine-tuning; its `rates` are the grid.
        labels: labelled cases to use, as `finetune` takes them.
        pretraining: what it starts from; None is from scratch.
        group: the arms of one group are compared with each other.
    """

    name: str
    store: Path
    recipe: Recipe
    labels: str | None = None
    pretraining: Pretraining | None = None
    group: str = ""

    @property
    def full_name(self) -> str:
        """The name with that of its group, unless it says that itself."""
        return f"{self.name}, {self.group}" if self.group and self.group not in self.name.split(", ") else self.name

    @property
    def trainings(self) -> list[tuple[Path, Recipe, bool]]:
        """Store and settings of each of its trainings, and whether that is the pre-training; the last is not."""
        start = [] if self.pretraining is None else [(self.pretraining.store, self.pretraining.recipe, True)]
        return [*start, (self.store, self.recipe, False)]

    def changed(self, change: Callable[[Path, Recipe, bool], Recipe]) -> Arm:
        """The arm with other settings for each of its trainings, which `change` is called with."""
        *start, recipe = (change(*training) for training in self.trainings)
        pretraining = self.pretraining and replace(self.pretraining, recipe=start[0])
        return replace(self, recipe=recipe, pretraining=pretraining)

    def pretrain(self, seed: int) -> Trial | None:
        """Its pre-training with a seed; None from scratch."""
        if self.pretraining is None:
            return None
        return Trial("pretrain", self.pretraining.store, replace(self.pretraining.recipe, seed=seed))

    def finetune(self, seed: int, rate: float) -> Trial:
        """Its fine-tuning with a seed at a rate."""
        recipe = replace(self.recipe, seed=seed, finetune=replace(self.recipe.finetune, lr=rate))
        return Trial("finetune", self.store, recipe, self.labels, self.pretrain(seed))


def grouped(arms: Iterable[Arm]) -> dict[str, list[Arm]]:
    """The arms of each group, in their order."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


@dataclass
class Comparison:
    """Arms that are trained with the same seeds, and what came of each.

    Attributes:
        arms: in the order of the tables; the first of each group is what the others are held against.
        seeds: the first of them chooses the rates.
        out: the folder of all studies.
        scheduler: address of a Dask scheduler; None does one trial after another here.
        trials: all that were asked for, by name.
        notes: how they ended, by name.
        console: for the lines between the trials.
    """

    arms: Sequence[Arm]
    seeds: Sequence[int]
    out: Path
    scheduler: str | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)
    console: Console = field(default_factory=lambda: Console(highlight=False))
    _rows: dict[tuple[str, str, int, float], list[dict[str, float]]] = field(default_factory=dict, init=False)
    _results: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(default_factory=dict, init=False)

    def train(self) -> None:
        """Pre-train and fine-tune every arm, the first seed at each rate and the others at the one that did best."""
        first, *others = self.seeds
        starts = [trial for arm in self.arms for seed in self.seeds if (trial := arm.pretrain(seed))]
        self.carry_out(starts + [arm.finetune(first, rate) for arm in self.arms for rate in arm.recipe.rates])
        chosen = [(arm, rate) for arm in self.arms if (rate := self.rate(arm)) is not None]
        self.carry_out(arm.finetune(seed, rate) for arm, rate in chosen for seed in others)

    def test(self, arms: Iterable[Arm]) -> None:
        """Score the chosen runs of these arms on the test cases."""
        self.carry_out(trial for arm in arms for seed in self.seeds if (trial := self._evaluation(arm, seed)))

    def carry_out(self, trials: Iterable[Trial]) -> None:
        """Do what is not done yet, each trial after the one it starts from."""
        pending = {trial.name: trial for trial in trials if trial.name not in self.notes}
        self.trials |= pending
        while pending:
            ready = [t for t in pending.values() if t.start is None or t.start.name not in pending]
            pending = {name: trial for name, trial in pending.items() if trial not in ready}
            act = partial(_told if self.scheduler is None else carry_out, out=self.out.resolve())
            tasks = [trial.absolute() for trial in ready]
            for note in workers.run(act, tasks, None if self.scheduler else 1, self.scheduler):
                self.notes[note.trial] = note
                self._say(note)

    def rate(self, arm: Arm) -> float | None:
        """The rate of the grid that does best with the first seed, or None where none was trained."""
        found = self.tried(arm)
        return max(found, key=lambda rate: found[rate]) if found else None

    def tried(self, arm: Arm) -> dict[float, float]:
        """The best validation Dice with the first seed at each rate that was trained."""
        rows = {rate: self.rows(arm, self.seeds[0], rate) for rate in arm.recipe.rates}
        return {rate: max(row["val_dice"] for row in found) for rate, found in rows.items() if found}

    def rows(self, arm: Arm, seed: int, rate: float) -> list[dict[str, float]]:
        """The validated rows of metrics.csv of a fine-tuning; none where it is not there."""
        key = (arm.group, arm.name, seed, rate)
        if key not in self._rows:
            run = self.finished(arm.finetune(seed, rate))
            if run is None:
                return []
            self._rows[key] = [row for row in run.metrics() if "val_dice" in row]
        return self._rows[key]

    def run(self, arm: Arm, seed: int) -> Run | None:
        """An arm's fine-tuning with a seed at its rate; None where it is not there."""
        rate = self.rate(arm)
        return None if rate is None else self.finished(arm.finetune(seed, rate))

    def finished(self, trial: Trial | None) -> Run | None:
        """The run of a trial that is done; None where there is no such trial, or a hole in its place."""
        note = None if trial is None else self.notes.get(trial.name)
        if trial is None or note is None or note.state != "done":
            return None
        return Run.open(trial.path(self.out))

    def curves(self, arm: Arm) -> dict[int, list[dict[str, float]]]:
        """The validated rows of each seed that is there, at the arm's rate."""
        rate = self.rate(arm)
        rows = {seed: [] if rate is None else self.rows(arm, seed, rate) for seed in self.seeds}
        return {seed: found for seed, found in rows.items() if found}

    def validation(self, *arms: Arm) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each arm the steps (T,) and the validation Dice (S, T, C) of the seeds and cases that all of them have.

        An empty list where there are none.
        """
        curves = [self.curves(arm) for arm in arms]
        seeds = [seed for seed in self.seeds if all(seed in found for found in curves)]
        rows = [row for found in curves for seed in seeds for row in found[seed]]
        cases = [key for key in (rows[0] if rows else {}) if key.startswith(case_column(""))]
        cases = [case for case in cases if all(case in row for row in rows)]
        if not cases:
            return []
        return [
            (
                np.array([row["step"] for row in found[seeds[0]]]),
                np.array([[[row[case] for case in cases] for row in found[seed]] for seed in seeds]),
            )
            for found in curves
        ]

    def results(self, arm: Arm) -> dict[int, dict[str, Any]]:
        """The evaluation on test cases of each seed that is there."""
        key = (arm.group, arm.name)
        if key not in self._results:
            trials = {seed: self._evaluation(arm, seed) for seed in self.seeds}
            self._results[key] = {
                seed: json.loads(trial.result(self.out).read_text())
                for seed, trial in trials.items()
                if trial is not None and self.finished(trial) is not None
            }
        return self._results[key]

    def tested(self, *arms: Arm, metric: str = "dice") -> list[np.ndarray]:
        """Of each arm the test scores (S, C), a case's mean over its labels, of the seeds and cases that all have."""
        scores = [{seed: case_scores(result, metric) for seed, result in self.results(arm).items()} for arm in arms]
        seeds = [seed for seed in self.seeds if all(seed in found for found in scores)]
        return tables([[found[seed] for seed in seeds] for found in scores])

    def _evaluation(self, arm: Arm, seed: int) -> Trial | None:
        rate = self.rate(arm)
        if rate is None:
            return None
        run = arm.finetune(seed, rate)
        return Trial("evaluate", run.store, run.recipe, start=run)

    def _say(self, note: Note) -> None:
        if note.state != "done":
            self.console.print(
                f"{note.state}: {note.trial}: {note.error}", style="yellow", markup=False, soft_wrap=True
            )
        elif self.scheduler is not None:
            self.console.print(f"done: {note.trial}, {note.seconds:.0f} s", markup=False, soft_wrap=True)


def _told(trial: Trial, out: Path) -> Note:
    """Carry out one trial here, its name above its progress bar."""
    Console(highlight=False).print(f"\n{trial.name}", style="bold", markup=False, soft_wrap=True)
    return carry_out(trial, out)


def tables(scores: Sequence[Sequence[Mapping[str, float]]]) -> list[np.ndarray]:
    """Of each arm, whose scores of cases are told seed by seed, the table (S, C) of the cases that all of them have.

    An empty list where there is none.
    """
    every = [table for arm in scores for table in arm]
    cases = [case for case in (every[0] if every else {}) if all(case in table for table in every)]
    return [np.array([[table[case] for case in cases] for table in arm]) for arm in scores] if cases else []


def case_scores(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Each case's mean over its counted labels; a case without any is left out."""
    found = {}
    for case in result["cases"]:
        counted = [score for score in case.get(metric, {}).values() if score is not None]
        if counted:
            found[case["case"]] = float(np.mean(counted))
    return found

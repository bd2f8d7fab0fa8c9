"""The arms of a study and their comparison: the same steps and labels for each, and for each its own learning rate.

Every arm is fine-tuned at each learning rate of the same small grid with the first seed. The one with the best
validation Dice is the arm's, for all seeds. A seed fixes which labelled cases are drawn, the order of crops, their
augmentation and all weights that are initialised at random; arms of one seed have the same labelled cases. Test cases
are scored once, at the end, by the chosen runs.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxmim import workers
from voxmim.console import CONSOLE, announce
from voxmim.recipe import Recipe
from voxmim.studies.curves import Cost
from voxmim.studies.trial import Note, Trial, carry_out
from voxmim.tasks.metrics import MAIN
from voxmim.tasks.segmentation.task import case_column
from voxmim.training.run import Run


class Pretraining(NamedTuple):
    """A pre-training: its store and its settings."""

    store: Path
    recipe: Recipe


@dataclass(frozen=True)
class Arm:
    """One way to train a segmentor."""

    name: str  # what tables call it
    store: Path  # of the fine-tuning
    recipe: Recipe  # of the fine-tuning; its `lrs` are the grid of learning rates
    labels: str | None = None  # labelled cases to use, as `finetune` takes them
    pretraining: Pretraining | None = None  # what it starts from; None is from scratch
    group: str = ""  # the arms of one group are compared with each other

    @property
    def full_name(self) -> str:
        """The name with that of its group, unless it contains it."""
        return f"{self.name}, {self.group}" if self.group and self.group not in self.name.split(", ") else self.name

    @property
    def trainings(self) -> list[tuple[Path, Recipe, bool]]:
        """Store and settings of each of its trainings, and whether that is the pre-training; the last is not."""
        start = [] if self.pretraining is None else [(self.pretraining.store, self.pretraining.recipe, True)]
        return [*start, (self.store, self.recipe, False)]

    def changed(self, change: Callable[[Path, Recipe, bool], Recipe]) -> "Arm":
        """The arm with other settings for each of its trainings, which `change` is called with."""
        *start, recipe = (change(*training) for training in self.trainings)
        pretraining = self.pretraining and self.pretraining._replace(recipe=start[0])
        return replace(self, recipe=recipe, pretraining=pretraining)

    def pretrain(self, seed: int) -> Trial | None:
        """Its pre-training with a seed; None from scratch."""
        if self.pretraining is None:
            return None
        return Trial("pretrain", self.pretraining.store, replace(self.pretraining.recipe, seed=seed))

    def finetune(self, seed: int, lr: float) -> Trial:
        recipe = replace(self.recipe, seed=seed, finetune=replace(self.recipe.finetune, lr=lr))
        return Trial("finetune", self.store, recipe, self.labels, self.pretrain(seed))


def grouped(arms: Iterable[Arm]) -> dict[str, list[Arm]]:
    """The arms of each group, in their order."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


@dataclass
class Comparison:
    """Arms that are trained with the same seeds, and their results."""

    arms: Sequence[Arm]  # in the order of the tables; the first of each group is what the others are compared with
    seeds: Sequence[int]  # the first of them chooses the learning rates
    out: Path  # the folder of all studies
    scheduler: str | None = None  # address of a Dask scheduler; None runs one trial after another here
    trials: dict[str, Trial] = field(default_factory=dict)  # all that were needed, by name
    notes: dict[str, Note] = field(default_factory=dict)  # how they ended, by name
    _rows: dict[str, list[dict[str, float]]] = field(default_factory=dict, init=False)
    _results: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def train(self) -> None:
        """Pre-train and fine-tune every arm, the first seed at each learning rate and the others at the best one."""
        self.run_trials(self._first_trials())
        chosen = [(arm, lr) for arm in self.arms if (lr := self.lr(arm)) is not None]
        self.run_trials(arm.finetune(seed, lr) for arm, lr in chosen for seed in self.seeds[1:])

    def test(self, arms: Iterable[Arm]) -> None:
        """Score the chosen runs of these arms on the test cases."""
        self.run_trials(
            trial for arm in arms for seed in self.seeds if (trial := self.evaluation(arm, seed, self.lr(arm)))
        )

    def possible(self, tested: Iterable[Arm]) -> list[Trial]:
        """As many trials as the comparison will need, before any learning rate is chosen."""
        others = [arm.finetune(seed, arm.recipe.lrs[0]) for arm in self.arms for seed in self.seeds[1:]]
        scored = [self.evaluation(arm, seed, arm.recipe.lrs[0]) for arm in tested for seed in self.seeds]
        return [*self._first_trials(), *others, *filter(None, scored)]

    def run_trials(self, trials: Iterable[Trial]) -> None:
        """Run what is not done yet, each trial after the one it starts from."""
        pending = {trial.name: trial for trial in trials if trial.name not in self.notes}
        self.trials |= pending
        while pending:
            ready = [t for t in pending.values() if t.start is None or t.start.name not in pending]
            pending = {name: trial for name, trial in pending.items() if trial not in ready}
            run = partial(_announced if self.scheduler is None else carry_out, out=self.out.resolve())
            tasks = [trial.absolute() for trial in ready]
            for note in workers.run(run, tasks, None if self.scheduler else 1, self.scheduler):
                self.notes[note.trial] = note
                self._print(note)

    def lr(self, arm: Arm) -> float | None:
        """The learning rate of the grid that does best with the first seed, or None if none was trained."""
        found = self.tried(arm)
        return max(found, key=lambda lr: found[lr]) if found else None

    def tried(self, arm: Arm) -> dict[float, float]:
        """The best validation Dice with the first seed at each learning rate that was trained."""
        rows = {lr: self.rows(arm.finetune(self.seeds[0], lr)) for lr in arm.recipe.lrs}
        return {lr: max(row["val_dice"] for row in found) for lr, found in rows.items() if found}

    def rows(self, trial: Trial) -> list[dict[str, float]]:
        """The validated rows of the metrics.csv of a training; none if it is missing."""
        if trial.name not in self._rows:
            run = self.finished(trial)
            if run is None:
                return []
            column = "val_loss" if trial.kind == "pretrain" else "val_dice"
            self._rows[trial.name] = [row for row in run.metrics() if column in row]
        return self._rows[trial.name]

    def run(self, arm: Arm, seed: int) -> Run | None:
        """An arm's fine-tuning with a seed at its learning rate; None if it is missing."""
        lr = self.lr(arm)
        return None if lr is None else self.finished(arm.finetune(seed, lr))

    def finished(self, trial: Trial | None) -> Run | None:
        """The run of a trial that is done; None if there is no such trial, or if it failed."""
        note = None if trial is None else self.notes.get(trial.name)
        if trial is None or note is None or note.state != "done":
            return None
        return Run.open(trial.path(self.out))

    def cost(self, arm: Arm) -> Cost | None:
        """Core-minutes of an arm's pre-training and of a step of its fine-tuning, the means of the seeds.

        Validations are included. None if a run is missing.
        """
        runs = [(arm.pretrain(seed), self.run(arm, seed)) for seed in self.seeds]
        starts, steps = [], []
        for start, run in runs:
            before = self.finished(start)
            if run is None or (start is not None and before is None):
                return None
            starts.append(0.0 if before is None else self._core_minutes(before))
            steps.append(self._core_minutes(run) / run.metrics()[-1]["step"])
        return Cost(float(np.mean(starts)), float(np.mean(steps)))

    def _core_minutes(self, run: Run) -> float:
        return run.metrics()[-1]["seconds"] / 60 * self.notes[run.path.name].threads

    def curves(self, arm: Arm) -> dict[int, list[dict[str, float]]]:
        """The validated rows of each seed that was trained, at the arm's learning rate."""
        lr = self.lr(arm)
        rows = {seed: [] if lr is None else self.rows(arm.finetune(seed, lr)) for seed in self.seeds}
        return {seed: found for seed, found in rows.items() if found}

    def validation(self, *arms: Arm) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each arm the steps (T,) and the validation Dice (S, T, C) of the seeds and cases that all of them have.

        An empty list if there are none.
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
        """The evaluation on test cases of each seed that was tested."""
        found = {}
        for seed in self.seeds:
            trial = self.evaluation(arm, seed, self.lr(arm))
            if trial is not None and self.finished(trial) is not None:
                if trial.name not in self._results:
                    self._results[trial.name] = json.loads(trial.result(self.out).read_text())
                found[seed] = self._results[trial.name]
        return found

    def tested(self, *arms: Arm, metric: str = MAIN) -> list[np.ndarray]:
        """Of each arm the test scores (S, C), a case's mean over its labels, of the seeds and cases that all have."""
        scores = [{seed: case_scores(result, metric) for seed, result in self.results(arm).items()} for arm in arms]
        seeds = [seed for seed in self.seeds if all(seed in found for found in scores)]
        return common_scores([[found[seed] for seed in seeds] for found in scores])

    def evaluation(self, arm: Arm, seed: int, lr: float | None) -> Trial | None:
        """The evaluation of an arm's run; None without a learning rate."""
        if lr is None:
            return None
        run = arm.finetune(seed, lr)
        return Trial("evaluate", run.store, run.recipe, start=run)

    def _first_trials(self) -> list[Trial]:
        """All pre-trainings, and the fine-tunings that the learning rates are chosen by."""
        starts = [trial for arm in self.arms for seed in self.seeds if (trial := arm.pretrain(seed))]
        return starts + [arm.finetune(self.seeds[0], lr) for arm in self.arms for lr in arm.recipe.lrs]

    def _print(self, note: Note) -> None:
        if note.state != "done":
            line = f"{note.state}: {note.trial}: {note.error}"
            CONSOLE.print(line, style="yellow", markup=False, soft_wrap=True)
        elif self.scheduler is not None:
            CONSOLE.print(f"done: {note.trial}, {note.seconds:.0f} s", markup=False, soft_wrap=True)


def _announced(trial: Trial, out: Path) -> Note:
    """Run one trial here, with its command above its progress bar unless it is done already."""
    if not trial.is_done(out):
        announce(trial.command(out))
    return carry_out(trial, out)


def common_scores(scores: Sequence[Sequence[Mapping[str, float]]]) -> list[np.ndarray]:
    """Of each arm, given its scores by case for each seed, the table (S, C) of the cases that all of them have.

    An empty list if there is none.
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

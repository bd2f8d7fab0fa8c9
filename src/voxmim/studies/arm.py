"""The arms of a study and their comparison, with the same steps and labels but a learning rate of its own for each arm.

Each arm is fine-tuned at each learning rate of a small grid with the first seed. The one with the best validation Dice
is used for all seeds. A seed fixes the sample of labelled cases, the order of crops, their augmentation and the initial
weights; arms of one seed have the same labelled cases. Test cases are scored once, at the end, by the selected runs.
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
from voxmim.errors import StoppedError
from voxmim.recipe import Recipe
from voxmim.studies.curves import Cost
from voxmim.studies.trial import Note, Trial, run_trial
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

    name: str  # in tables
    store: Path  # of the fine-tuning
    recipe: Recipe  # of the fine-tuning; its `lrs` are the grid of learning rates
    labels: str | None = None  # the number of labelled cases, as for `finetune`
    pretraining: Pretraining | None = None  # None is from scratch
    group: str = ""  # arms of one group are compared with each other

    @property
    def full_name(self) -> str:
        """The name and the group, unless the name contains the group."""
        return f"{self.name}, {self.group}" if self.group and self.group not in self.name.split(", ") else self.name

    @property
    def trainings(self) -> list[tuple[Path, Recipe, bool]]:
        """Store and settings of each training, and whether it is the pre-training; the fine-tuning is last."""
        start = [] if self.pretraining is None else [(self.pretraining.store, self.pretraining.recipe, True)]
        return [*start, (self.store, self.recipe, False)]

    def changed(self, change: Callable[[Path, Recipe, bool], Recipe]) -> "Arm":
        """The arm with the settings that `change` returns for each of its `trainings`."""
        *start, recipe = (change(*training) for training in self.trainings)
        pretraining = self.pretraining and self.pretraining._replace(recipe=start[0])
        return replace(self, recipe=recipe, pretraining=pretraining)

    def pretrain(self, seed: int) -> Trial | None:
        """The pre-training with a seed; None from scratch."""
        if self.pretraining is None:
            return None
        return Trial("pretrain", self.pretraining.store, replace(self.pretraining.recipe, seed=seed))

    def finetune(self, seed: int, lr: float) -> Trial:
        recipe = replace(self.recipe, seed=seed, finetune=replace(self.recipe.finetune, lr=lr))
        return Trial("finetune", self.store, recipe, self.labels, self.pretrain(seed))


def grouped(arms: Iterable[Arm]) -> dict[str, list[Arm]]:
    """The arms of each group."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


@dataclass
class Comparison:
    """Arms that are trained with the same seeds, and their results."""

    arms: Sequence[Arm]  # in the order of the tables; the first of each group is the baseline
    seeds: Sequence[int]  # the first one selects the learning rates
    out: Path  # the folder of all studies
    scheduler: str | None = None  # address of a Dask scheduler; None runs one trial after another here
    trials: dict[str, Trial] = field(default_factory=dict)  # by name
    notes: dict[str, Note] = field(default_factory=dict)  # the outcomes of the trials, by name
    _rows: dict[str, list[dict[str, float]]] = field(default_factory=dict, init=False)
    _results: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def train(self) -> None:
        """Pre-train and fine-tune all arms: the first seed at each learning rate, the others at the best one."""
        self.run_trials(self._first_trials())
        selected = [(arm, lr) for arm in self.arms if (lr := self.lr(arm)) is not None]
        self.run_trials(arm.finetune(seed, lr) for arm, lr in selected for seed in self.seeds[1:])

    def test(self, arms: Iterable[Arm]) -> None:
        """Score the selected runs of these arms on the test cases."""
        self.run_trials(
            trial for arm in arms for seed in self.seeds if (trial := self.evaluation(arm, seed, self.lr(arm)))
        )

    def planned(self, tested: Iterable[Arm]) -> list[Trial]:
        """The trials of the comparison, with a placeholder for learning rates that are not selected yet."""
        others = [arm.finetune(seed, arm.recipe.lrs[0]) for arm in self.arms for seed in self.seeds[1:]]
        scored = [self.evaluation(arm, seed, arm.recipe.lrs[0]) for arm in tested for seed in self.seeds]
        return [*self._first_trials(), *others, *filter(None, scored)]

    def run_trials(self, trials: Iterable[Trial]) -> None:
        """Run the trials that are not done yet, each after the one it starts from.

        Raises:
            StoppedError: a signal stopped a training.
        """
        pending = {trial.name: trial for trial in trials if trial.name not in self.notes}
        self.trials |= pending
        while pending:
            ready = [t for t in pending.values() if t.start is None or t.start.name not in pending]
            pending = {name: trial for name, trial in pending.items() if trial not in ready}
            run = partial(_announced if self.scheduler is None else run_trial, out=self.out.resolve())
            tasks = [trial.absolute() for trial in ready]
            try:
                for note in workers.run(run, tasks, None if self.scheduler else 1, self.scheduler):
                    self.notes[note.trial] = note
                    self._print(note)
            except StoppedError as stopped:  # its message names one training, and a study has no --resume
                stopped.args = (f"{self.out}: the study was stopped; run the same command again to continue.",)
                raise

    def lr(self, arm: Arm) -> float | None:
        """The learning rate with the best validation Dice of the first seed, or None if nothing was trained."""
        dice = self.tried(arm)
        return max(dice, key=dice.__getitem__) if dice else None

    def tried(self, arm: Arm) -> dict[float, float]:
        """The best validation Dice of the first seed at each learning rate that was trained."""
        rows = {lr: self.rows(arm.finetune(self.seeds[0], lr)) for lr in arm.recipe.lrs}
        return {lr: max(row["val_dice"] for row in found) for lr, found in rows.items() if found}

    def rows(self, trial: Trial) -> list[dict[str, float]]:
        """The rows of a training's metrics.csv that have a validation; none if the training is missing."""
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
        """The run of a trial; None if there is no trial or it is not done."""
        note = None if trial is None else self.notes.get(trial.name)
        if trial is None or note is None or note.state != "done":
            return None
        return Run.open(trial.path(self.out))

    def cost(self, arm: Arm) -> Cost | None:
        """The cost of an arm with its validations, the mean over seeds; None if a run is missing."""
        pretrainings, steps = [], []
        for seed in self.seeds:
            trial, run = arm.pretrain(seed), self.run(arm, seed)
            pretraining = self.finished(trial)
            if run is None or (trial is not None and pretraining is None):
                return None
            pretrainings.append(0.0 if pretraining is None else self._core_minutes(pretraining))
            steps.append(self._core_minutes(run) / run.metrics()[-1]["step"])
        return Cost(float(np.mean(pretrainings)), float(np.mean(steps)))

    def _core_minutes(self, run: Run) -> float:
        return run.metrics()[-1]["seconds"] / 60 * self.notes[run.path.name].threads

    def curves(self, arm: Arm) -> dict[int, list[dict[str, float]]]:
        """The `rows` of each seed that was trained, at the arm's learning rate."""
        lr = self.lr(arm)
        if lr is None:
            return {}
        return {seed: rows for seed in self.seeds if (rows := self.rows(arm.finetune(seed, lr)))}

    def validation(self, *arms: Arm) -> list[tuple[np.ndarray, np.ndarray]]:
        """The steps (T,) and validation Dice (S, T, C) of each arm, for the seeds and cases that all arms have.

        The list is empty if they have none in common.
        """
        curves = [self.curves(arm) for arm in arms]
        seeds = [seed for seed in self.seeds if all(seed in curve for curve in curves)]
        rows = [row for curve in curves for seed in seeds for row in curve[seed]]
        cases = [key for key in (rows[0] if rows else {}) if key.startswith(case_column(""))]
        cases = [case for case in cases if all(case in row for row in rows)]
        if not cases:
            return []
        return [
            (
                np.array([row["step"] for row in curve[seeds[0]]]),
                np.array([[[row[case] for case in cases] for row in curve[seed]] for seed in seeds]),
            )
            for curve in curves
        ]

    def results(self, arm: Arm) -> dict[int, dict[str, Any]]:
        """The evaluation on test cases of each seed that was tested."""
        results = {}
        for seed in self.seeds:
            trial = self.evaluation(arm, seed, self.lr(arm))
            if trial is not None and self.finished(trial) is not None:
                if trial.name not in self._results:
                    self._results[trial.name] = json.loads(trial.result(self.out).read_text())
                results[seed] = self._results[trial.name]
        return results

    def tested(self, *arms: Arm, metric: str = MAIN) -> list[np.ndarray]:
        """The test scores (S, C) of each arm, for the seeds and cases that all arms have; see `case_scores`."""
        by_seed = [{seed: case_scores(result, metric) for seed, result in self.results(arm).items()} for arm in arms]
        seeds = [seed for seed in self.seeds if all(seed in scores for scores in by_seed)]
        return common_scores([[scores[seed] for seed in seeds] for scores in by_seed])

    def evaluation(self, arm: Arm, seed: int, lr: float | None) -> Trial | None:
        """The evaluation of an arm's run; None without a learning rate."""
        if lr is None:
            return None
        run = arm.finetune(seed, lr)
        return Trial("evaluate", run.store, run.recipe, start=run)

    def _first_trials(self) -> list[Trial]:
        """All pre-trainings, and the fine-tunings that select the learning rates."""
        starts = [trial for arm in self.arms for seed in self.seeds if (trial := arm.pretrain(seed))]
        return starts + [arm.finetune(self.seeds[0], lr) for arm in self.arms for lr in arm.recipe.lrs]

    def _print(self, note: Note) -> None:
        if note.state != "done":
            line = f"{note.state}: {note.trial}: {note.error}"
            CONSOLE.print(line, style="yellow", markup=False, soft_wrap=True)
        elif self.scheduler is not None:
            CONSOLE.print(f"done: {note.trial}, {note.seconds:.0f} s", markup=False, soft_wrap=True)


def _announced(trial: Trial, out: Path) -> Note:
    """Run a trial here, and print its command first unless it is already done."""
    if not trial.is_done(out):
        announce(trial.command(out))
    return run_trial(trial, out)


def common_scores(scores: Sequence[Sequence[Mapping[str, float]]]) -> list[np.ndarray]:
    """The scores of each arm as an array (S, C), for the cases that all arms have in all seeds.

    `scores` has each arm's scores by case for each seed. The list is empty if there is no common case.
    """
    tables = [table for arm in scores for table in arm]
    cases = [case for case in (tables[0] if tables else {}) if all(case in table for table in tables)]
    return [np.array([[table[case] for case in cases] for table in arm]) for arm in scores] if cases else []


def case_scores(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Each case's mean over its counted labels; cases without any are left out."""
    scores = {}
    for case in result["cases"]:
        counted = [score for score in case.get(metric, {}).values() if score is not None]
        if counted:
            scores[case["case"]] = float(np.mean(counted))
    return scores

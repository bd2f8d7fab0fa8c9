"""The estimated cost of a study: trials, hours and disk, from a few timed steps of each kind of training."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.trial import Trial
from voxmim.training.plan import Plan, plan

EVALUATION = 3.0  # the time of a test case in validation cases: it is also read, resampled and scored


def cost_rows(comparison: Comparison, tested: Iterable[Arm], follow_up: bool = False) -> list[list[str]]:
    """Table rows: the number of trials by kind, those already done, and hours and disk of the others.

    `tested` are the arms that are scored on test cases; with `follow_up` the study adds an arm later.
    """
    trials = {trial.name: trial for trial in comparison.planned(tested)}
    done = {name for name, trial in trials.items() if trial.is_done(comparison.out)}
    measured: dict[str, Plan] = {}
    seconds, disk = 0.0, 0
    for name, trial in trials.items():
        if name in done:
            continue
        training = trial.start if trial.kind == "evaluate" and trial.start is not None else trial
        key = _kind(training).name
        if key not in measured:
            options = {"labels": training.labels} if training.kind == "finetune" else {}
            measured[key] = plan(Store(training.store), training.recipe, training.kind, **options)
        seconds += _seconds(trial, measured[key])
        disk += 0 if trial.kind == "evaluate" else measured[key].run_bytes
    kinds = [sum(trial.kind == kind for trial in trials.values()) for kind in ("pretrain", "finetune", "evaluate")]
    names = "{} pre-trainings, {} fine-tunings, {} evaluations"
    later = ["not counted", "an arm from scratch that takes as long as pre-training and fine-tuning"]
    return [
        ["trials", f"{len(trials)}: {names.format(*kinds)}"],
        ["done before", str(len(done))],
        ["hours", f"{seconds / 3600:.2g}, one trial at a time on this machine"],
        ["disk", f"{disk / 1e9:.2f} GB"],
        *([later] if follow_up else []),
    ]


def _kind(trial: Trial) -> Trial:
    """The trial with a default for each setting that does not change the cost of a step."""
    training = replace(
        getattr(trial.recipe, trial.kind), steps=1, validate_every=1, checkpoint_every=1, lr=1.0, warmup=0.0
    )
    changes: Any = {"seed": 0, trial.kind: training}
    return replace(trial, recipe=replace(trial.recipe, **changes), start=None)


def _seconds(trial: Trial, measured: Plan) -> float:
    if trial.kind == "evaluate":
        cases = {split: len(Store(trial.store).labelled(split)) for split in ("val", "test")}
        return EVALUATION * measured.validation_seconds * cases["test"] / max(1, cases["val"])
    return measured.seconds_of(getattr(trial.recipe, trial.kind))

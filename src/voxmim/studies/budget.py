"""Sizes that fit a time: as many steps, seeds and rates as it allows, by a few timed steps of each kind of training."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from voxmim.errors import RunError
from voxmim.settings import Recipe, Training
from voxmim.store.format import Store
from voxmim.studies.arm import Arm
from voxmim.studies.trial import Trial
from voxmim.training.finetune import MOST_VALIDATION
from voxmim.training.plan import STEPS, WARM_UP, Plan, plan

RESERVE = 0.15  # of the time, for pages, pictures and what a few steps do not tell
EVALUATION = 3.0  # validations of a case that a test case is taken to cost, as it is read, resampled and scored too
ENOUGH = 0.25  # of the recipe's steps; below it, something else is saved before more steps are
LEAST = 2  # steps of a training
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Size:
    """How large a study is to be.

    Attributes:
        share: of the recipe's steps, in every training.
        seeds: how many.
        rates: how many of the grid's, the first ones.
        validations: share of the recipe's number of them.
        seconds: what all is expected to take.
    """

    share: float
    seeds: int
    rates: int
    validations: float
    seconds: float


class Cost(NamedTuple):
    """What one training takes: what a trial of it found, and the seconds before its first step."""

    plan: Plan
    begin_seconds: float


def seconds_of(budget: str) -> float:
    """Seconds of a time such as ``90m`` or ``2h``.

    Raises:
        RunError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", budget.strip())
    if found is None or float(found[1]) <= 0:
        raise RunError(f"--budget {budget}: write it as 90m, 2h or 1.5d.")
    return float(found[1]) * _UNITS[found[2]]


def choose(
    arms: Sequence[Arm],
    seeds: int,
    fixed: bool,
    seconds: float,
    measure: Callable[[Store, Recipe, str, str | None], Plan] = plan,
) -> Size:
    """The size of a study that fits a time on this machine.

    Where all steps of the recipe fit, they are taken. Otherwise they are cut, the same share of each training; and
    where a quarter of them would not fit, first half of the validations are left out, then seeds down to two if their
    number was not told, then all rates but one, then the second seed.

    Args:
        arms: with their crops.
        seeds: how many are wished.
        fixed: that number was told.
        seconds: the time.
        measure: tries a training out.

    Raises:
        RunError: not even the least fits.
    """
    costs: dict[str, Cost] = {}
    for arm in arms:
        for key, store, recipe, kind in _trainings(arm):
            if key not in costs:
                began = time.monotonic()
                found = measure(Store(store), recipe, kind, arm.labels if kind == "finetune" else None)
                timed = (WARM_UP + STEPS) * found.step_seconds + found.validation_seconds + found.checkpoint_seconds
                costs[key] = Cost(found, max(0.0, time.monotonic() - began - timed))
    rates = max(len(arm.recipe.rates) for arm in arms)
    fewer = seeds if fixed else min(2, seeds)
    ladder = [(seeds, rates, 1.0), (seeds, rates, 0.5), (fewer, rates, 0.5), (fewer, 1, 0.5)]
    ladder.append((seeds if fixed else 1, 1, 0.5))
    base = min(arm.recipe.finetune.steps for arm in arms)
    sizes: list[Size] = []
    least = 0.0
    for number, grid, validations in ladder:
        steady, by_step = _cost(arms, costs, number, grid, validations)
        share = min(1.0, ((1 - RESERVE) * seconds - steady) / by_step)
        share = math.floor(share * base) / base  # so that twice the steps stay twice
        sizes.append(Size(share, number, grid, validations, steady + share * by_step))
        least = (steady + by_step * LEAST / base) / (1 - RESERVE)
        if share >= ENOUGH:
            return sizes[-1]
    size = max(sizes, key=lambda size: size.share)
    if size.share * base < LEAST:
        raise RunError(f"--budget: on this machine even the smallest study takes {_hours(least)}; give more.")
    return size


def sized(arms: Iterable[Arm], size: Size) -> list[Arm]:
    """The arms with a share of their steps and rates, validated as often as the size says."""

    def cut(training: Training) -> Training:
        steps = max(LEAST, round(size.share * training.steps))
        validations = max(1, math.ceil(size.validations * training.steps / training.validate_every))
        every = max(1, math.ceil(steps / validations))
        return replace(training, steps=steps, validate_every=every, checkpoint_every=every)

    def changed(_: Path, recipe: Recipe, masked: bool) -> Recipe:
        if masked:
            return replace(recipe, pretrain=cut(recipe.pretrain))
        return replace(recipe, finetune=cut(recipe.finetune), rates=recipe.rates[: size.rates])

    return [arm.changed(changed) for arm in arms]


def in_words(budget: str, size: Size, arms: Sequence[Arm]) -> str:
    """What was chosen."""
    steps = f"{size.share:.0%} of the recipe's steps" if size.share < 1 else "all of the recipe's steps"
    rates = max(len(arm.recipe.rates) for arm in arms)
    least = min(arm.recipe.finetune.steps for arm in arms)
    grid = f"{rates} learning rates to choose from" if rates > 1 else "one learning rate for all arms, not each its own"
    often = "" if size.validations == 1 else ", validated half as often"
    return (
        f"To fit {budget}, {steps} are taken (fine-tuning: {least}){often}, {size.seeds} seed(s) and {grid}. By a few "
        f"timed steps of each kind of training on this machine, all should take {_hours(size.seconds)}."
    )


def _trainings(arm: Arm) -> Iterator[tuple[str, Path, Recipe, str]]:
    """Of each training of an arm: what its cost follows from, its store, its settings and its kind."""
    for store, recipe, masked in arm.trainings:
        idle = {"steps": 1, "validate_every": 1, "checkpoint_every": 1, "lr": 1.0, "warmup": 0.0}
        name = "pretrain" if masked else "finetune"
        same = replace(recipe, **{name: replace(getattr(recipe, name), **idle)})
        labels = None if masked else arm.labels
        yield Trial("pretrain" if masked else "finetune", store, same, labels).name, store, recipe, name


def _cost(
    arms: Sequence[Arm], costs: dict[str, Cost], seeds: int, rates: int, validations: float
) -> tuple[float, float]:
    """Seconds that do not depend on the steps, and those of all steps."""
    steady, by_step, shared = 0.0, 0.0, set()
    for arm in arms:
        cases = {split: len(Store(arm.store).labelled(split)) for split in ("val", "test")}
        for key, store, recipe, name in _trainings(arm):
            training, (cost, begin), times = getattr(recipe, name), costs[key], seeds
            if name == "pretrain":
                whole = Trial("pretrain", store, recipe).name
                times = 0 if whole in shared else seeds
                shared.add(whole)
            else:
                times = min(rates, len(recipe.rates)) + seeds - 1
                one = cost.validation_seconds / min(cases["val"], MOST_VALIDATION)
                steady += seeds * cases["test"] * EVALUATION * one
            often = max(1, math.ceil(validations * training.steps / training.validate_every))
            steady += times * (begin + often * (cost.validation_seconds + cost.checkpoint_seconds))
            by_step += times * training.steps * cost.step_seconds
    return steady, by_step


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"

"""Tables and plots that the studies share; the position-only prior stands in every table of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from voxmim.report.page import Picture, Table
from voxmim.report.plots import Curve, Plot
from voxmim.report.run_pages import figure, segmentation_pictures
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.studies.analysis import FRACTIONS, SpeedUp, speed_up
from voxmim.studies.arm import Arm, Comparison, case_scores, tables
from voxmim.tasks.intervals import mean_interval, seed_interval, verdict
from voxmim.tasks.metrics import METRICS, cells, convention, headings
from voxmim.text import PRETEXTS, sizes_in_words
from voxmim.training.finetune import case_column, prior_dice
from voxmim.training.health import complaint

PRIOR = "position-only prior"


def interval_note(comparison: Comparison) -> str:
    """What an interval over seeds and cases holds, and what it does not."""
    if len(comparison.seeds) == 1:
        return "95 % intervals over cases. With one seed they say nothing of what another run would change."
    return (
        f"95 % intervals over {len(comparison.seeds)} seeds and all cases, by t distributions of the effects of both. "
        "They are not adjusted for their number: if nothing differs, one in twenty still leaves out zero."
    )


def score_table(comparison: Comparison, arms: Sequence[Arm], title: str = "") -> Table:
    """What the chosen runs of each arm score on the test cases, the prior first."""
    rows: list[list[str]] = []
    cases = 0
    for arm in arms:
        results = list(comparison.results(arm).values())
        if results and not rows:
            cases = len(results[0]["cases"])
            rows.append([PRIOR, *_scores([result["prior"] for result in results]), "–", "–"])
        rate = comparison.rate(arm)
        means = [np.mean(list(case_scores(result, "dice").values())) for result in results]
        by_seed = ", ".join(f"{mean:.3f}" for mean in means) or "not there"
        rows.append([arm.name, *_scores(results), "–" if rate is None else f"{rate:g}", by_seed])
    header = ["arm", *headings(), "rate", "Dice of each seed"]
    note = f"{interval_note(comparison)} {convention()} The prior knows positions only and never looks at the image."
    return Table(title or f"Results on {cases} test cases", header, rows, note)


def difference_table(comparison: Comparison, pairs: Sequence[tuple[Arm, Arm]], title: str = "") -> Table:
    """How the second of each pair differs from the first on the same test cases with the same seeds."""
    rows = []
    for first, second in pairs:
        cells = []
        for name, metric in METRICS.items():
            pair = comparison.tested(first, second, metric=name)
            cells.append(difference_cell(pair[1] - pair[0], metric.digits) if pair else "not there")
        rows.append([f"{second.name} against {first.full_name}", *cells])
    note = f"Paired over test cases and seeds, averaged over both. {interval_note(comparison)}"
    header = ["arms", *(metric.heading() for metric in METRICS.values())]
    return Table(title or "Differences on test cases", header, rows, note)


def difference_cell(differences: np.ndarray, digits: int = 3) -> str:
    """Mean, interval and verdict of paired differences (S, C), as printed."""
    if differences.size == 1:
        return f"{differences.item():+.{digits}f}, which one case cannot show"
    middle, interval = float(differences.mean()), mean_interval(differences)
    middle, low, high = (round(value, digits) + 0.0 for value in (middle, *interval))
    return f"{middle:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}), {verdict(middle, interval, digits)}"


def seeds_caption(comparison: Comparison) -> str:
    """What the bands of curves are."""
    seeds = len(comparison.seeds)
    return f"Mean of {seeds} seeds; the band is a 95 % t interval over seeds." if seeds > 1 else "One seed."


def best_scores(comparison: Comparison, arm: Arm) -> np.ndarray | None:
    """The validation Dice (S, C) of each seed at the step whose weights were kept; None where nothing is there."""
    rows = [max(found, key=lambda row: row["val_dice"]) for found in comparison.curves(arm).values()]
    own = [{key: value for key, value in row.items() if key.startswith(case_column(""))} for row in rows]
    found = tables([own])
    return found[0] if found else None


def best_of(comparison: Comparison, arms: Sequence[Arm]) -> Arm | None:
    """The arm with the highest mean of its best validation Dice; None where none is there."""
    scores = [(arm, table.mean()) for arm in arms if (table := best_scores(comparison, arm)) is not None]
    return max(scores, key=lambda pair: pair[1])[0] if scores else None


def validation_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """The best validation Dice of each arm, by which a choice among many is made; the prior first."""
    rows: list[list[str]] = []
    for arm in arms:
        table, run = best_scores(comparison, arm), comparison.run(arm, comparison.seeds[0])
        if run is not None and not rows:
            prior = prior_dice(run, Store(arm.store))
            rows.append([PRIOR, figure(float(np.mean(prior))) if prior else "–", "–", "–", "–"])
        if table is None:
            rows.append([arm.name, "not there", "–", "–", "–"])
            continue
        low, high = mean_interval(table)
        by_seed = ", ".join(f"{mean:.3f}" for mean in table.mean(axis=1))
        rate = comparison.rate(arm)
        rows.append([arm.name, f"{table.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{rate:g}", by_seed])
    note = (
        "At the step whose weights were kept. Choices are made by these figures, so the best of many is flattered by "
        f"them; only test cases tell what it is worth. {interval_note(comparison)} The prior is that of the first seed."
    )
    header = ["arm", "Dice", "95 % interval", "rate", "Dice of each seed"]
    return Table("Best Dice on validation cases", header, rows, note)


def validation_plot(comparison: Comparison, arms: Sequence[Arm], title: str = "") -> Plot:
    """Validation Dice against steps, the mean over seeds with its interval over them."""
    curves = []
    for arm in arms:
        found = list(comparison.curves(arm).values())
        if not found:
            continue
        steps = [int(row["step"]) for row in found[0]]
        dice = np.array([[row["val_dice"] for row in rows] for rows in found])
        lows, highs = seed_interval(dice)
        band = (lows.tolist(), highs.tolist()) if len(found) > 1 else None
        curves.append(Curve(arm.name, steps, dice.mean(axis=0).tolist(), band))
    run = next((run for arm in arms if (run := comparison.run(arm, comparison.seeds[0]))), None)
    prior = [] if run is None else prior_dice(run, Store(arms[0].store))
    if prior:
        ends = [min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)]
        curves.append(Curve(PRIOR, ends, [float(np.mean(prior))] * 2))
    title = title or "Dice on validation cases"
    return Plot(title, "optimiser step of the fine-tuning", "mean Dice", curves, seeds_caption(comparison))


def speed_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """How much sooner each arm reaches a share of each other's best validation Dice."""
    rows = []
    for arm, other in permutations(arms, 2):
        found = comparison.validation(arm, other)
        if found:
            (steps, own), (other_steps, others) = found
            speeds = [speed_up(steps, own, other_steps, others, fraction) for fraction in FRACTIONS]
            rows.append([arm.name, other.name, *map(speed_cell, speeds)])
    header = ["arm", "reaches, of the best of", *(f"{fraction:.0%} of it" for fraction in FRACTIONS[:-1]), "all of it"]
    note = (
        "On validation cases, by the mean curves: the steps that the first needs, how many times fewer they are than "
        "those that the second needs itself, and the 95 % interval of that ratio over seeds and cases. 'never' is an "
        "arm that stays below until its last step; how slow it is cannot be known, so an interval that begins so has "
        "no lower end. Between two validations a curve is taken as straight, and nothing is known before the first. "
        "Rates fall to zero with the last step, so a training that is planned shorter would be further at that step."
    )
    return Table("Steps to reach another arm's best validation Dice", header, rows, note)


def speed_cell(found: SpeedUp) -> str:
    """Such as ``120 steps, 2.50x (1.80 to 3.10)``."""
    low, high = (f"{value:.2f}" if value > 0 else "never" for value in (found.low, found.high))
    if math.isinf(found.own_steps):
        return f"never ({low} to {high})" if found.high > 0 else "never"
    return f"{found.own_steps:.0f} steps, {found.ratio:.2f}x ({low} to {high})"


def tested_in_words(comparison: Comparison, first: Arm, second: Arm) -> str:
    """How the second arm compares with the first on the test cases, the same whether it pleases or not."""
    who = f"{second.name} against {first.full_name}"
    pair = comparison.tested(first, second)
    if not pair:
        return f"{who}: not there."
    difference = pair[1] - pair[0]
    if difference.size == 1:
        return f"{who}: one test case cannot show a difference."
    return f"{who}: Dice on test cases {difference_cell(difference)}."


def speed_in_words(comparison: Comparison, arm: Arm, other: Arm) -> str:
    """In how many of the other's steps an arm reaches the other's best validation Dice."""
    found = comparison.validation(arm, other)
    if not found:
        return ""
    (steps, own), (other_steps, others) = found
    speed = speed_up(steps, own, other_steps, others, 1.0)
    what = f"the best validation Dice of {other.name} ({speed.target:.3f}, step {speed.other_steps:.0f})"
    if math.isinf(speed.own_steps):
        return f"{arm.name} never reached {what}."
    low, high = (f"{value:.2f}" if value > 0 else "never" for value in (speed.low, speed.high))
    return (
        f"{arm.name} reached {what} at step {speed.own_steps:.0f}: {speed.ratio:.2f} times as fast "
        f"(95 % interval {low} to {high})."
    )


def segmentations(comparison: Comparison, arms: Sequence[Arm]) -> list[Picture]:
    """What the first seed's runs of arms on one store make of two validation cases."""
    runs = {arm.name: comparison.run(arm, comparison.seeds[0]) for arm in arms}
    found = {name: run for name, run in runs.items() if run is not None}
    return segmentation_pictures(found, Store(arms[0].store)) if found else []


def pretraining_table(comparison: Comparison) -> Table:
    """What each pre-training was and took, with the first seed, and what is wrong with those that did not learn."""
    seed, rows, seen, complaints = comparison.seeds[0], [], set(), []
    for arm in comparison.arms:
        trial = arm.pretrain(seed)
        if trial is None or trial.name in seen:
            continue
        seen.add(trial.name)
        training, run = trial.recipe.pretrain, comparison.finished(trial)
        name, contrastive = PRETEXTS[trial.recipe.pretext], trial.recipe.pretext == "simclr"
        what = "pairs" if contrastive else "crops"
        store = Store(trial.store)
        where = f"{store.name}, {store.preparation.intensity.upper()} at {setting_in_words(store, trial.recipe.crop)}"
        row = [name, where, f"{training.steps}", f"{training.batch} {what}", f"{training.lr:g}"]
        metrics = [] if run is None else run.metrics()
        losses = [line for line in metrics if "val_loss" in line]
        row.append(f"{metrics[-1]['seconds'] / 60:.1f}" if metrics else "not there")
        found = f"{losses[0]['val_loss']:.3f} to {losses[-1]['val_loss']:.3f}" if losses else "–"
        if losses and contrastive:
            found += f"; partner found: {losses[0]['val_accuracy']:.0%} to {losses[-1]['val_accuracy']:.0%}"
        row.append(found)
        knowing_nothing = math.log(2 * training.batch - 1) if contrastive else None
        if losses and not contrastive:
            knowing_nothing = losses[-1].get("val_constant")
        rows.append([*row, figure(knowing_nothing)])
        if losses and (wrong := complaint(trial.recipe, losses[-1])):
            complaints.append(f"{name}: {wrong}")
    header = ["pre-training", "on", "steps", "of", "rate", "minutes", "loss on validation crops", "knowing nothing"]
    note = (
        "With the first seed. Losses of different pretexts, or of different masks, cannot be compared. What knows "
        "nothing paints each crop in one grey value, or, for SimCLR, guesses a view's partner among all other views."
    )
    return Table("The pre-trainings", header, rows, " ".join([note, *complaints]))


def setting_in_words(store: Store, crop: Triple | None) -> str:
    """Such as ``1 x 1 x 3 mm, crop 64 x 64 x 32``."""
    return f"{sizes_in_words(store.preparation.spacing)} mm, crop {sizes_in_words(crop or ())}"


def _scores(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean Dice over seeds and cases with its interval, HD95 and NSD, as texts."""
    found = {metric: tables([[case_scores(result, metric) for result in results]]) for metric in METRICS}
    if not found["dice"]:
        return ["–"] * len(headings())
    means = {metric: float(table[0].mean()) if table else None for metric, table in found.items()}
    return cells({**means, "ci95": mean_interval(found["dice"][0])})

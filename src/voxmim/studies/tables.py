"""Tables and plots of the studies; all tables of results contain the position-only prior."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxmim.report.page import Picture, Table
from voxmim.report.plots import Curve, Plot
from voxmim.report.run_pictures import segmentation_pictures
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, case_scores, common_scores, grouped
from voxmim.studies.design import Findings
from voxmim.tasks.intervals import mean_interval, seed_interval, verdict
from voxmim.tasks.metrics import MAIN, METRICS, cells, convention, headings
from voxmim.tasks.segmentation.task import case_column, prior_dice
from voxmim.text import counted, sizes_in_words

MISSING = "missing"
PRIOR = "position-only prior"
MAIN_METRIC = METRICS[MAIN]


def interval_note(comparison: Comparison) -> str:
    """A sentence on what the intervals cover."""
    if len(comparison.seeds) == 1:
        return "95 % intervals over cases. With one seed they say nothing of what another run would change."
    return (
        f"95 % intervals over {len(comparison.seeds)} seeds and all cases, by t distributions of the effects of both. "
        "They are not adjusted for their number: if nothing differs, one in twenty still leaves out zero."
    )


def table(
    comparison: Comparison,
    title: str,
    header: list[str],
    rows: list[list[str]],
    note: str,
    arms: Sequence[Arm] | None = None,
) -> Table:
    """A table with a note that explains the asterisks of its arms."""
    return Table(title, header, rows, f"{note} {unlearned_note(comparison, arms or comparison.arms)}".strip())


def score_table(comparison: Comparison, arms: Sequence[Arm], title: str = "") -> Table:
    """The scores of each arm's selected runs on the test cases, after those of the prior."""
    rows: list[list[str]] = []
    cases = 0
    for arm in arms:
        results = list(comparison.results(arm).values())
        if results and not rows:
            cases = len(results[0]["cases"])
            rows.append([PRIOR, *_scores([result["prior"] for result in results]), "–", "–"])
        lr = comparison.lr(arm)
        means = [float(np.mean(list(case_scores(result, MAIN).values()))) for result in results]
        by_seed = ", ".join(MAIN_METRIC.text(mean) for mean in means) or MISSING
        rows.append([marked(comparison, arm), *_scores(results), "–" if lr is None else f"{lr:g}", by_seed])
    header = ["arm", *headings(), "lr", f"{MAIN_METRIC.title} of each seed"]
    prior = "The prior is the mean training label map; it never sees the image."
    note = " ".join([interval_note(comparison), convention(), prior])
    return table(comparison, title or f"Results on {counted(cases, 'test case')}", header, rows, note, arms)


def label_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """The mean Dice of each label on the test cases, with a column for each arm."""
    found = [list(comparison.results(arm).values()) for arm in arms]
    names = dict.fromkeys(name for results in found for result in results for name in result["labels"])
    rows = []
    for name in names:
        row = [name]
        for results in found:
            scores = [result["labels"][name][MAIN] for result in results if name in result["labels"]]
            counted = [score for score in scores if score is not None]
            row.append(MAIN_METRIC.text(float(np.mean(counted)) if counted else None))
        rows.append(row)
    header = ["label", *(marked(comparison, arm) for arm in arms)]
    return table(comparison, f"{MAIN_METRIC.title} by label on test cases", header, rows, "", arms)


def difference_table(comparison: Comparison, pairs: Sequence[tuple[Arm, Arm]]) -> Table:
    """The second arm of each pair minus the first, on the same test cases with the same seeds."""
    rows = []
    for first, second in pairs:
        found = {metric: comparison.tested(first, second, metric=metric) for metric in METRICS}
        texts = [
            difference_cell(pair[1] - pair[0], METRICS[metric].digits) if pair else MISSING
            for metric, pair in found.items()
        ]
        rows.append([f"{marked(comparison, second)} minus {first.full_name}", *texts])
    header = ["arms", *(metric.heading() for metric in METRICS.values())]
    arms = [arm for pair in pairs for arm in pair]
    note = f"Paired by test case and seed. {interval_note(comparison)}"
    return table(comparison, "Differences on test cases", header, rows, note, arms)


def difference_cell(differences: np.ndarray, digits: int = 3) -> str:
    """Mean, interval and verdict of paired differences (S, C)."""
    if differences.size == 1:
        return f"{differences.item():+.{digits}f}; one case shows no difference"
    mean, interval = float(differences.mean()), mean_interval(differences)
    middle, low, high = (round(value, digits) + 0.0 for value in (mean, *interval))
    return f"{middle:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}), {verdict(middle, interval, digits)}"


def tested_in_words(comparison: Comparison, first: Arm, second: Arm) -> str:
    """The difference of two arms on the test cases, as a sentence."""
    pair = comparison.tested(first, second)
    what = f"{marked(comparison, second)} minus {first.full_name}"
    return f"{what}, Dice on test cases: {difference_cell(pair[1] - pair[0]) if pair else MISSING}."


def unlearned(comparison: Comparison, arm: Arm) -> str:
    """The losses of an arm's pre-trainings that ended no better than guessing; empty if there are none."""
    losses = []
    for seed in comparison.seeds:
        start = arm.pretrain(seed)
        rows = [] if start is None else comparison.rows(start)
        if rows and rows[-1]["val_loss"] >= (guess := rows[-1]["val_guess"]):
            losses.append(f"{rows[-1]['val_loss']:.3f} against {guess:.3f} (seed {seed})")
    return ", ".join(losses)


def marked(comparison: Comparison, arm: Arm) -> str:
    """The name of an arm, with an asterisk if its pre-training learned nothing."""
    return f"{arm.name}*" if unlearned(comparison, arm) else arm.name


def unlearned_note(comparison: Comparison, arms: Sequence[Arm]) -> str:
    """A sentence that explains the asterisks; empty without any."""
    found = {arm.name: losses for arm in arms if (losses := unlearned(comparison, arm))}
    if not found:
        return ""
    losses = "; ".join(f"{name}, loss {text}" for name, text in found.items())
    return f"* Its pre-training ended no better than guessing, so it says nothing of the method: {losses}."


def best_scores(comparison: Comparison, arm: Arm) -> np.ndarray | None:
    """The validation Dice (S, C) of each seed at the best step, whose weights are kept; None without results."""
    rows = [max(found, key=lambda row: row["val_dice"]) for found in comparison.curves(arm).values()]
    found = common_scores([[{key: row[key] for key in row if key.startswith(case_column(""))} for row in rows]])
    return found[0] if found else None


def best_of(comparison: Comparison, arms: Sequence[Arm]) -> Arm | None:
    """The arm with the highest mean of its best validation Dice; None without results."""
    means = [(arm, scores.mean()) for arm in arms if (scores := best_scores(comparison, arm)) is not None]
    return max(means, key=lambda pair: pair[1])[0] if means else None


def validation_table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    """The best validation Dice of each arm, which arms are selected by, after that of the prior."""
    rows = [[PRIOR, MAIN_METRIC.text(_prior(comparison, arms)), "–", "–", "–"]]
    for arm in arms:
        scores = best_scores(comparison, arm)
        if scores is None:
            rows.append([marked(comparison, arm), MISSING, "–", "–", "–"])
            continue
        low, high = mean_interval(scores)
        by_seed = ", ".join(f"{mean:.3f}" for mean in scores.mean(axis=1))
        cells = [f"{scores.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{comparison.lr(arm):g}", by_seed]
        rows.append([marked(comparison, arm), *cells])
    note = (
        "At the step whose weights were kept. Choices are made by these figures, which therefore flatter the best of "
        "many; only test cases show what it is worth. "
    )
    header = ["arm", "Dice", "95 % interval", "lr", "Dice of each seed"]
    note += interval_note(comparison)
    return table(comparison, "Best Dice on validation cases", header, rows, note, arms)


def validation_plot(comparison: Comparison, arms: Sequence[Arm], title: str = "") -> Plot:
    """Validation Dice against steps: the mean over seeds with its interval."""
    curves = []
    for arm in arms:
        found = list(comparison.curves(arm).values())
        if not found:
            continue
        steps = [int(row["step"]) for row in found[0]]
        dice = np.array([[row["val_dice"] for row in rows] for rows in found])
        curves.append(seeds_curve(marked(comparison, arm), dict(zip(steps, dice.T, strict=True))))
    if (prior := _prior(comparison, arms)) is not None:
        ends = [min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)]
        curves.append(Curve(PRIOR, ends, [prior] * 2))
    title = title or "Dice on validation cases"
    return Plot(title, "optimiser step of the fine-tuning", "mean Dice", curves, seeds_caption(comparison))


def _prior(comparison: Comparison, arms: Sequence[Arm]) -> float | None:
    """The mean Dice of the position-only prior on the validation cases of the first arm that was trained."""
    for arm in arms:
        if run := comparison.run(arm, comparison.seeds[0]):
            dice = prior_dice(run.path, run.about, Store(arm.store))
            return float(np.mean(dice)) if dice else None
    return None


def seeds_curve(name: str, scores: Mapping[int, np.ndarray]) -> Curve:
    """The means over seeds of the scores (S,) at each step or number, with their t intervals."""
    intervals = [seed_interval(values[:, None]) for values in scores.values()]
    low, high = ([float(interval[end][0]) for interval in intervals] for end in (0, 1))
    # with two seeds, the band would be as wide as the plot
    band = (low, high) if min(map(len, scores.values()), default=0) > 2 else None
    return Curve(name, list(scores), [float(values.mean()) for values in scores.values()], band)


def seeds_caption(comparison: Comparison) -> str:
    """The caption of curves over seeds."""
    seeds = len(comparison.seeds)
    band = " The band is the 95 % t interval over seeds." if seeds > 2 else ""
    return f"Mean of {seeds} seeds.{band}" if seeds > 1 else "One seed."


def grouped_findings(comparison: Comparison, pairs: Sequence[tuple[Arm, Arm]]) -> Findings:
    """Scores and validation curves of each group of arms, and the differences of pairs."""
    groups = grouped(comparison.arms)
    return Findings(
        lead=[tested_in_words(comparison, *pair) for pair in pairs],
        tables=[
            *(score_table(comparison, arms, f"Test cases, {name}") for name, arms in groups.items()),
            difference_table(comparison, pairs),
            pretraining_table(comparison),
        ],
        plots=[validation_plot(comparison, arms, f"Dice on validation cases, {name}") for name, arms in groups.items()],
    )


def segmentations(comparison: Comparison, arms: Sequence[Arm], split: str = "val") -> list[Picture]:
    """Pictures of two cases as segmented by the first seed's runs of arms on one store."""
    runs = {arm.name: comparison.run(arm, comparison.seeds[0]) for arm in arms}
    found = {name: run for name, run in runs.items() if run is not None}
    return segmentation_pictures(found, Store(arms[0].store), split) if found else []


def pretraining_table(comparison: Comparison) -> Table:
    """Settings, minutes and losses of each pre-training, with the first seed."""
    seed, rows, seen = comparison.seeds[0], [], set()
    for arm in comparison.arms:
        trial = arm.pretrain(seed)
        if trial is None or trial.name in seen:
            continue
        seen.add(trial.name)
        training, run = trial.recipe.pretrain, comparison.finished(trial)
        store, validated = Store(trial.store), comparison.rows(trial)
        where = f"{store.name}, {store.preparation.intensity.upper()} at {setting_in_words(store, trial.recipe.crop)}"
        row = [trial.recipe.pretext_class.title, where, f"{training.steps}", f"{training.batch}", f"{training.lr:g}"]
        row.append(f"{run.metrics()[-1]['seconds'] / 60:.1f}" if run is not None else MISSING)
        losses = f"{validated[0]['val_loss']:.3f} to {validated[-1]['val_loss']:.3f}" if validated else "–"
        guess = f"{validated[-1]['val_guess']:.3f}" if validated else "–"
        learned = ("no" if unlearned(comparison, arm) else "yes") if validated else "–"
        rows.append([*row, losses, guess, learned])
    header = ["pre-training", "on", "steps", "batch", "lr", "minutes", "validation loss", "guessing", "learned"]
    note = (
        "With the first seed; 'no' if any seed ended no better than guessing: the best constant grey value per crop, "
        "or a view's partner drawn at random among all other views. Losses of different pretexts, or of different "
        "masks, cannot be compared."
    )
    return table(comparison, "Pre-trainings", header, rows, note)


def setting_in_words(store: Store, crop: Triple | None) -> str:
    """Such as ``1 x 1 x 3 mm, crop 64 x 64 x 32``."""
    return f"{sizes_in_words(store.preparation.spacing)} mm, crop {sizes_in_words(crop or ())}"


def _scores(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells of `headings`: means over seeds and cases, with the main metric's interval."""
    found = {metric: common_scores([[case_scores(result, metric) for result in results]]) for metric in METRICS}
    if not found[MAIN]:
        return ["–"] * len(headings())
    means = {metric: float(table[0].mean()) if table else None for metric, table in found.items()}
    low, high = np.clip(mean_interval(found[MAIN][0]), 0, 1)
    return cells({**means, "ci95": (low, high)})

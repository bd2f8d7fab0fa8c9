"""Validation curves of fine-tuning runs, and the steps each arm needs to reach the plateau of the first arm.

    python benchmarks/curves.py --arm "from scratch" scratch0 scratch1 --arm "from the MAE" mae0 mae1 --csv curves.csv
    python benchmarks/curves.py --csv curves.csv --png curves.png --step-seconds 0.3 --pretraining-minutes 34

Give each arm one run per seed. --csv writes the curves, or reads them if there is no --arm. An arm's mean curve covers
the steps at which all its runs were validated. All arms but the first are assumed to be pre-trained. Break-even is the
number of fine-tunings from one pre-training at which an arm costs as much as the first arm.
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from voxmim.files import write_csv
from voxmim.report.plots import Plot, png
from voxmim.studies.curves import Cost, savings
from voxmim.studies.tables import seeds_curve
from voxmim.training.plateau import plateau
from voxmim.training.run import Run

SCORE = "val_dice"
COLUMNS = ("arm", "run", "step", SCORE)
Curves = dict[str, dict[str, dict[int, float]]]  # arm, run, step


def main() -> None:
    """Read the curves, print the report and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", nargs="+", action="append", default=[], help="name of the arm, then its run folders")
    parser.add_argument("--csv", type=Path, help="file of curves; written if arms are given, otherwise read")
    parser.add_argument("--png", type=Path, help="write a plot to this file")
    parser.add_argument("--title", default="Dice on validation cases", help="title of the plot (default: %(default)s)")
    parser.add_argument("--step-seconds", type=float, default=math.nan, help="seconds per fine-tuning step on one core")
    parser.add_argument("--pretraining-minutes", type=float, default=math.nan, help="core-minutes of the pre-training")
    options = parser.parse_args()
    if options.arm:
        curves = {name: {Path(run).name: Run.open(run).curve(SCORE) for run in runs} for name, *runs in options.arm}
        if options.csv:
            write_csv(options.csv, rows(curves), COLUMNS)
    elif options.csv:
        curves = read(options.csv)
    else:
        parser.error("give --arm or --csv")
    scores = {name: common_steps(runs) for name, runs in curves.items()}
    step_minutes = options.step_seconds / 60
    print("\n".join(report(scores, Cost(0, step_minutes), Cost(options.pretraining_minutes, step_minutes))))
    if options.png:
        lines = [seeds_curve(name, values) for name, values in scores.items()]
        options.png.write_bytes(png(Plot(options.title, "fine-tuning step", "mean Dice", lines)))


def rows(curves: Curves) -> list[dict[str, object]]:
    """Rows of the CSV file."""
    return [
        dict(zip(COLUMNS, (arm, run, step, dice), strict=True))
        for arm, runs in curves.items()
        for run, scores in runs.items()
        for step, dice in scores.items()
    ]


def read(file: Path) -> Curves:
    """Read the curves from a CSV file."""
    curves: Curves = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            runs = curves.setdefault(row["arm"], {})
            runs.setdefault(row["run"], {})[int(row["step"])] = float(row[SCORE])
    return curves


def common_steps(runs: dict[str, dict[int, float]]) -> dict[int, np.ndarray]:
    """Scores (number of runs,) at each step at which all runs were validated."""
    steps = sorted(set.intersection(*(set(scores) for scores in runs.values())))
    return {step: np.array([scores[step] for scores in runs.values()]) for step in steps}


def report(scores: dict[str, dict[int, np.ndarray]], first: Cost, other: Cost) -> list[str]:
    """Lines with the plateau of each arm, and the steps to reach fractions of the first arm's plateau."""
    means = {
        name: (np.array(list(values), dtype=float), np.array([value.mean() for value in values.values()]))
        for name, values in scores.items()
    }
    lines = []
    for name, (at, dice) in means.items():
        end = plateau(at, dice)
        done = "done" if end.done else "not done"
        lines.append(f"{name}: plateau {end.best:.3f} at step {end.step:.0f} of {at[-1]:.0f}, {done}")
    (reference, reference_curve), *others = means.items()
    for name, mean_curve in others:
        for saving in savings(*mean_curve, other, *reference_curve, first):
            steps = "never" if math.isinf(saving.steps) else f"{saving.steps:.0f} steps"
            needed = f"{steps}; {reference}: {saving.other_steps:.0f}"
            even = "never" if math.isinf(saving.break_even) else f"{saving.break_even:.1f} fine-tunings"
            even = "" if math.isnan(saving.break_even) else f"; break-even: {even}"
            lines.append(f"{name}, {saving.fraction:.0%} of that of {reference}: {needed}{even}")
    return lines


if __name__ == "__main__":
    main()

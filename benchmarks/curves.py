"""Validation curves of fine-tunings, and how soon each arm reaches the plateau of the first.

    python benchmarks/curves.py --arm "from scratch" scratch0 scratch1 --arm "from the MAE" mae0 mae1 --csv curves.csv
    python benchmarks/curves.py --csv curves.csv --png curves.png --step-seconds 0.3 --pretraining-minutes 34

The runs of an arm are those of its seeds. --csv writes their curves, and reads them where no --arm is given. The mean
curve of each arm has the validations that all its runs have. Break-even is the number of fine-tunings from one
pre-training at which the arm costs as much as the first; all but the first are taken to be pre-trained.
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

COLUMNS = ("arm", "run", "step", "val_dice")
Curves = dict[str, dict[str, dict[int, float]]]  # arm, run, step


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", nargs="+", action="append", default=[], help="a name, then run folders")
    parser.add_argument("--csv", type=Path, help="the curves; written where arms are given, otherwise read")
    parser.add_argument("--png", type=Path, help="write a plot to this file")
    parser.add_argument("--title", default="Dice on validation cases", help="of the plot")
    parser.add_argument("--step-seconds", type=float, default=math.nan, help="of a fine-tuning, on one core")
    parser.add_argument("--pretraining-minutes", type=float, default=math.nan, help="core-minutes")
    options = parser.parse_args()
    if options.arm:
        found = {name: {Path(run).name: curve(Run.open(run)) for run in runs} for name, *runs in options.arm}
        if options.csv:
            write_csv(options.csv, rows(found), COLUMNS)
    elif options.csv:
        found = read(options.csv)
    else:
        parser.error("give --arm or --csv")
    scores = {name: common(runs) for name, runs in found.items()}
    step = options.step_seconds / 60
    print("\n".join(report(scores, Cost(0, step), Cost(options.pretraining_minutes, step))))
    if options.png:
        drawn = [seeds_curve(name, values) for name, values in scores.items()]
        options.png.write_bytes(png(Plot(options.title, "step of the fine-tuning", "mean Dice", drawn)))


def curve(run: Run) -> dict[int, float]:
    """The validation Dice by step."""
    return {int(row["step"]): row["val_dice"] for row in run.metrics() if "val_dice" in row}


def rows(found: Curves) -> list[dict[str, object]]:
    """The rows of the CSV file, of `COLUMNS`."""
    return [
        dict(zip(COLUMNS, (arm, run, step, dice), strict=True))
        for arm, runs in found.items()
        for run, scores in runs.items()
        for step, dice in scores.items()
    ]


def read(file: Path) -> Curves:
    """The curves in a CSV file of `rows`."""
    found: Curves = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            runs = found.setdefault(row["arm"], {})
            runs.setdefault(row["run"], {})[int(row["step"])] = float(row["val_dice"])
    return found


def common(runs: dict[str, dict[int, float]]) -> dict[int, np.ndarray]:
    """The scores (S,) of all runs at the steps that all have."""
    steps = sorted(set.intersection(*(set(scores) for scores in runs.values())))
    return {step: np.array([scores[step] for scores in runs.values()]) for step in steps}


def report(scores: dict[str, dict[int, np.ndarray]], first: Cost, other: Cost) -> list[str]:
    """Lines on the plateau of each arm, and on the cost of reaching fractions of the first arm's."""
    means = {
        name: (np.array(list(values), dtype=float), np.array([value.mean() for value in values.values()]))
        for name, values in scores.items()
    }
    lines = []
    for name, (steps, dice) in means.items():
        end = plateau(steps, dice)
        done = "done" if end.done else "not done"
        lines.append(f"{name}: plateau {end.best:.3f} at step {end.step:.0f} of {steps[-1]:.0f}, {done}")
    (reference, curves), *others = means.items()
    for name, own in others:
        for saving in savings(*own, other, *curves, first):
            needed = f"{saving.steps:.0f} steps; {reference}: {saving.other_steps:.0f}"
            even = "never" if math.isinf(saving.break_even) else f"{saving.break_even:.1f} fine-tunings"
            even = "" if math.isnan(saving.break_even) else f"; break-even: {even}"
            lines.append(f"{name}, {saving.fraction:.0%} of that of {reference}: {needed}{even}")
    return lines


if __name__ == "__main__":
    main()

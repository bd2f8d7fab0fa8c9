"""Difference in Dice between two groups of runs, paired by test case and seed.

    voxmim evaluate scratch0 store --json scratch0.json      # and so on, for each run
    python benchmarks/compare.py --first scratch0.json scratch1.json --second mae0.json mae1.json

The n-th files of both groups form a pair, so give the seeds in the same order. Prints the mean of each group, and the
mean difference with its 95 % interval over seeds and cases. --csv also writes the scores to a file; `--csv FILE` alone
reads them from it instead of from the JSON files.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from voxmim.files import write_csv
from voxmim.studies.arm import case_scores, common_scores
from voxmim.studies.tables import difference_cell
from voxmim.tasks.intervals import mean_interval
from voxmim.tasks.metrics import MAIN

COLUMNS = ("side", "pair", "case", MAIN)
SIDES = ("first", "second")


def main() -> None:
    """Read the scores, and print means and difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for side in SIDES:
        parser.add_argument(f"--{side}", type=Path, nargs="+", default=[], help="evaluations (JSON), one per seed")
    parser.add_argument("--csv", type=Path, help="file of scores; written if evaluations are given, otherwise read")
    options = parser.parse_args()
    if len(options.first) != len(options.second):
        parser.error("--first and --second need the same number of files")
    if options.first:
        scores = [
            [case_scores(json.loads(file.read_text()), MAIN) for file in getattr(options, side)] for side in SIDES
        ]
        if options.csv:
            write(options.csv, scores)
    elif options.csv:
        scores = read(options.csv)
    else:
        parser.error("give --first and --second, or --csv")
    tables = common_scores(scores)
    if not tables:
        parser.error("the evaluations have no common case")
    for side, table in zip(SIDES, tables, strict=True):
        low, high = mean_interval(table)
        print(
            f"{side}: {table.mean():.3f} ({low:.3f} to {high:.3f}); by seed {np.round(table.mean(axis=1), 4).tolist()}"
        )
    print(f"second minus first: {difference_cell(tables[1] - tables[0], 4)}")


def write(file: Path, scores: list[list[dict[str, float]]]) -> None:
    """Write one score per row."""
    rows = (
        (side, pair, case, score)
        for side, runs in zip(SIDES, scores, strict=True)
        for pair, run in enumerate(runs)
        for case, score in run.items()
    )
    write_csv(file, [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def read(file: Path) -> list[list[dict[str, float]]]:
    """Read the scores written by `write`."""
    runs: dict[str, dict[str, dict[str, float]]] = {side: {} for side in SIDES}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            runs[row["side"]].setdefault(row["pair"], {})[row["case"]] = float(row[MAIN])
    return [list(runs[side].values()) for side in SIDES]


if __name__ == "__main__":
    main()

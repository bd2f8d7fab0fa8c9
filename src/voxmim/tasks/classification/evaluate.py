"""How good a classifier is: the classes it gives scans against those of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError
from voxmim.tasks.classification.labels import CLASS, Listed, read_classes
from voxmim.tasks.classification.metrics import CONVENTION, METRICS, summarise
from voxmim.tasks.classification.predict import Classifier, probability_columns, rounded
from voxmim.tasks.classification.score_scans import metric_rows, score_scans, table_note
from voxmim.tasks.scans import Progress
from voxmim.tasks.task import ResultTable, write_table


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    listed: Listed | None = None,
    classes: Path | None = None,
    on_case: Progress | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Score a classifier on scans, each read from its own file and classified as `predict` does it.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store (its source files must still be there) or a folder of scans.
        split: ``train``, ``val`` or ``test``; ``all`` takes every case that has a class.
        listed: the class of each case by split, as the run has it.
        classes: CSV file of another table; its cases are split as `data` has them.
        on_case: called with the cases done and their number.
        others: further runs, whose probabilities are averaged with the first one's.

    Returns:
        what `metrics.summarise` gives, with ``task``, ``run``, ``data``, ``split``, ``convention``, ``left_out`` and,
        with `classes`, the table's path under ``table`` and sentences on cases left out under ``notes``.

    Raises:
        SourceError: the table cannot be used, or has a class that the classifier does not know.
        StoreError: no case in this split, or one is not in the data.
        ScanError: no case can be used.
        WeightsError: the run holds no classifier.
    """
    classifier = Classifier.load(run, *others)

    def check(truth: Mapping[str, str]) -> None:
        if unknown := sorted(set(truth.values()) - set(classifier.classes)):
            known = ", ".join(classifier.classes)
            raise SourceError(f"{data}: class '{unknown[0]}' is none that the classifier knows ({known}).")

    truth, found, about = score_scans(
        classifier, classifier.probabilities, run, data, split, listed, classes, read_classes, CLASS, "--classes",
        on_case, check,
    )  # fmt: skip
    return {
        "task": "classification",
        **about,
        "convention": CONVENTION,
        **summarise(classifier.classes, truth, found),
    }


def result_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """An evaluation's figures beside those of constant guessing, and the table of confusions."""
    rows = metric_rows(METRICS, result)
    text = next(iter(METRICS.values())).text
    for name, scores in result["sensitivity"].items():
        rows.append([f"sensitivity of {name} ({scores['cases']} cases)", text(scores["value"]), "–", "–"])
    confusion = [[name, *map(str, counts)] for name, counts in zip(result["classes"], result["confusion"], strict=True)]
    return [
        ResultTable(f"Results on {len(result['cases'])} cases of the split '{result['split']}'",
                    ["metric", "value", "95 % interval", "constant guess"], rows, table_note(result)),
        ResultTable(f"Predicted classes of the split '{result['split']}'",
                    ["class", *(f"predicted {name}" for name in result["classes"])], confusion),
    ]  # fmt: skip


def write_csv(file: Path, result: Mapping[str, Any]) -> None:
    """Write an evaluation as CSV: a row per case."""
    rows = (
        [case["case"], case["class"], case["predicted"], *rounded(list(case["probabilities"].values()))]
        for case in result["cases"]
    )
    write_table(file, ["case", "class", "predicted", *probability_columns(result["classes"])], rows)

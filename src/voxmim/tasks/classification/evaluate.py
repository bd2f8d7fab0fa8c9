"""How good a classifier is: the classes it gives scans against those of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError, StoreError
from voxmim.sources.source import SPLITS
from voxmim.tasks.classification.labels import Listed, match, read_classes
from voxmim.tasks.classification.metrics import CONVENTION, METRICS, summarise
from voxmim.tasks.classification.predict import Classifier, probability_columns, rounded
from voxmim.tasks.scans import Progress, channel_order, for_each, source_of
from voxmim.tasks.task import ResultTable, write_table


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    listed: Listed | None = None,
    classes: Path | None = None,
    on_case: Progress | None = None,
) -> dict[str, Any]:
    """Score a classifier on scans, each read from its own file and classified as `predict` does it.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store (its source files must still be there) or a folder of scans.
        split: ``train``, ``val`` or ``test``; ``all`` takes every case that has a class.
        listed: the class of each case by split, as the run has it.
        classes: CSV file of another table; its cases are split as `data` has them.
        on_case: called with the cases done and their number.

    Returns:
        what `metrics.summarise` gives, with ``task``, ``run``, ``data``, ``split``, ``convention``, ``left_out`` and,
        with `classes`, the table's path under ``table`` and sentences on cases left out under ``notes``.

    Raises:
        SourceError: the table cannot be used, or has a class that the classifier does not know.
        StoreError: no case in this split, or one is not in the data.
        ScanError: no case can be used.
        WeightsError: the run holds no classifier.
    """
    classifier = Classifier.load(run)
    source = source_of(data, classifier.metadata["data"]["seed"])
    cases = {case.name: case for case in source.cases}
    notes: list[str] = []
    if classes is not None:
        listed, notes = match(read_classes(classes), {case.name: case.split for case in source.cases}, classes, data)
    elif listed is None:
        raise SourceError(f"{run}: these weights do not know the classes of scans; give a CSV file with --classes.")
    wanted = SPLITS if split == "all" else (split,)
    truth = {case: name for one in wanted for case, name in listed.get(one, {}).items()}
    _check(truth, classifier.classes, cases, split, data)
    order = channel_order(classifier.preparation.channels, source.channels, data)
    found, left_out = for_each(
        {name: cases[name].images for name in truth},
        lambda _, images: classifier.probabilities(classifier.prepare(images, order)),
        on_case,
    )
    return {
        "task": "classification",
        "run": str(run),
        "data": str(data),
        "split": split,
        "convention": CONVENTION,
        "left_out": left_out,
        **({"table": str(classes), "notes": notes} if classes is not None else {}),
        **summarise(classifier.classes, {name: truth[name] for name in found}, found),
    }


def result_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """An evaluation's figures beside those of constant guessing, and the table of confusions."""
    rows = []
    for key, metric in METRICS.items():
        scores = result[key]
        low_high = scores["ci95"]
        interval = "–" if low_high is None else f"{metric.text(low_high[0])} to {metric.text(low_high[1])}"
        rows.append([metric.heading(), metric.text(scores["value"]), interval, metric.text(scores["chance"])])
    text = next(iter(METRICS.values())).text
    for name, scores in result["sensitivity"].items():
        rows.append([f"sensitivity of {name} ({scores['cases']} cases)", text(scores["value"]), "–", "–"])
    notes = [*result.get("notes", ()), result["convention"]]
    if result.get("left_out"):
        notes.append(f"Left out, since they cannot be used: {', '.join(result['left_out'])}.")
    confusion = [[name, *map(str, counts)] for name, counts in zip(result["classes"], result["confusion"], strict=True)]
    return [
        ResultTable(f"Results on {len(result['cases'])} cases of the split '{result['split']}'",
                    ["metric", "value", "95 % interval", "constant guess"], rows, " ".join(notes)),
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


def _check(truth: Mapping[str, str], known: list[str], cases: Mapping[str, object], split: str, data: Path) -> None:
    if not truth:
        raise StoreError(f"{data}: it has no case with a class in the split '{split}'; name another with --split.")
    gone = [case for case in truth if case not in cases]
    if gone:
        raise StoreError(f"{data}: {gone[0]}, which the run lists, is not there; give the data it was trained on.")
    unknown = sorted(set(truth.values()) - set(known))
    if unknown:
        raise SourceError(f"{data}: class '{unknown[0]}' is none that the classifier knows ({', '.join(known)}).")

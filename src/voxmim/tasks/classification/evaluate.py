"""How good a classifier is: the classes it gives whole scans against those of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError, StoreError
from voxmim.sources import open_source
from voxmim.sources.source import SPLITS
from voxmim.store.format import INDEX, Store
from voxmim.store.prepare import prepare_scan
from voxmim.tasks.classification.labels import Listed, match, read_classes
from voxmim.tasks.classification.metrics import CONVENTION, summarise
from voxmim.tasks.classification.predict import Classifier, probability_columns, rounded, write_table


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    listed: Listed | None = None,
    classes: Path | None = None,
    on_case: Callable[[int, int], None] | None = None,
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
        what `metrics.summarise` gives, with ``task``, ``run``, ``data``, ``split``, ``convention`` and, with
        `classes`, the table's path under ``table`` and what was left out under ``told``.

    Raises:
        SourceError: the table cannot be used, or has a class that the classifier does not know.
        StoreError: no case in this split, or one has gone from the data.
        ScanError: a source file is missing or cannot be used.
        WeightsError: the run holds no classifier.
    """
    classifier = Classifier.load(run)
    scans = _scans(data, classifier.metadata["data"]["seed"])
    told: list[str] = []
    if classes is not None:
        splits = {name: where for name, (_, where) in scans.items()}
        listed, told = match(read_classes(classes), splits, classes, data)
    elif listed is None:
        raise SourceError(f"{run}: these weights do not tell the classes of scans; give a CSV file with --classes.")
    wanted = SPLITS if split == "all" else (split,)
    truth = {case: name for one in wanted for case, name in listed.get(one, {}).items()}
    _check(truth, classifier.classes, scans, split, data)
    found = {}
    for done, case in enumerate(truth):
        if on_case is not None:
            on_case(done, len(truth))
        found[case] = classifier.probabilities(prepare_scan(scans[case][0], classifier.preparation))
    if on_case is not None:
        on_case(len(truth), len(truth))
    about: dict[str, Any] = {"task": "classification", "run": str(run), "data": str(data), "split": split}
    about |= {"convention": CONVENTION}
    if classes is not None:
        about |= {"table": str(classes), "told": told}
    return about | summarise(classifier.classes, truth, found)


def result_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """An evaluation as rows of a table: name, value, 95 % interval, what always guessing the same has."""
    rows = []
    for key, name in (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy")):
        scores = result[key]
        rows.append([name, _figure(scores["value"]), _interval(scores["ci95"]), _figure(scores["chance"])])
    for name, scores in result["sensitivity"].items():
        rows.append([f"sensitivity of {name} ({scores['cases']} cases)", _figure(scores["value"]), "–", "–"])
    return rows


def write_csv(file: Path, result: Mapping[str, Any]) -> None:
    """Write an evaluation as CSV in one stroke: a row per case."""
    rows = [
        [case["case"], case["class"], case["predicted"], *rounded(list(case["probabilities"].values()))]
        for case in result["cases"]
    ]
    write_table(file, ["case", "class", "predicted", *probability_columns(result["classes"])], rows)


def _scans(data: Path, seed: int) -> dict[str, tuple[tuple[Path, ...], str]]:
    """The image files and the split of each case of a store or a folder of scans."""
    if (data / INDEX).is_file():
        return {case.name: (tuple(map(Path, case.image)), case.split) for case in Store(data).cases.values()}
    return {case.name: (case.images, case.split) for case in open_source(data, seed).cases}


def _check(truth: Mapping[str, str], known: list[str], scans: Mapping[str, object], split: str, data: Path) -> None:
    """Refuse what cannot be scored."""
    if not truth:
        raise StoreError(f"{data}: it has no case with a class in the split '{split}'; name another with --split.")
    gone = [case for case in truth if case not in scans]
    if gone:
        raise StoreError(f"{data}: {gone[0]}, which the run lists, is not there; give the data it was trained on.")
    strange = sorted(set(truth.values()) - set(known))
    if strange:
        raise SourceError(f"{data}: class '{strange[0]}' is none that the classifier knows ({', '.join(known)}).")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ci95: list[float] | None) -> str:
    return "–" if ci95 is None else f"{ci95[0]:.3f} to {ci95[1]:.3f}"

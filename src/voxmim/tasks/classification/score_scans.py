"""The targets of scans and what a network says of them, for any task of whole scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError, StoreError
from voxmim.sources.source import SPLITS
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.classification.labels import Listed, match
from voxmim.tasks.metrics import Metric
from voxmim.tasks.scans import Progress, channel_order, for_each, source_in_fold
from voxmim.tasks.task import Predictor


def score_scans(
    predictor: Predictor,
    answer: Callable[[PreparedScan], Any],
    run: Path,
    data: Path,
    split: str,
    listed: Listed | None,
    table: Path | None,
    read: Callable[[Path], Mapping[str, Any]],
    target: str,
    option: str,
    on_case: Progress | None,
    check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Compare a network with targets on scans, each read from its own file and prepared as `predict` does it.

    Args:
        predictor: the network.
        answer: what it says of a scan.
        run: its run folder or weights file.
        data: a store (its source files must still be there) or a folder of scans.
        split: ``train``, ``val`` or ``test``; ``all`` takes every case that has a target.
        listed: the target of each case by split, as the run has it.
        table: CSV file of other targets; its cases are split as `data` has them.
        read: reads it.
        target: what a target is called.
        option: that names a table.
        on_case: called with the cases done and their number.
        check: raises SourceError where a target cannot be scored.

    Returns:
        the target and the answer of each case that can be used, and what an evaluation says of them all.

    Raises:
        SourceError: the table cannot be used.
        StoreError: no case in this split, or one is not in the data.
        ScanError: no case can be used.
    """
    source = source_in_fold(data, predictor.metadata)
    cases = {case.name: case for case in source.cases}
    notes: list[str] = []
    if table is not None:
        listed, notes = match(read(table), {case.name: case.split for case in source.cases}, table, data, target)
    elif listed is None:
        raise SourceError(f"{run}: these weights do not know the {target} of scans; give a CSV file with {option}.")
    wanted = SPLITS if split == "all" else (split,)
    truth = {case: value for one in wanted for case, value in listed.get(one, {}).items()}
    if not truth:
        raise StoreError(f"{data}: it has no case with a {target} in the split '{split}'; name another with --split.")
    gone = [case for case in truth if case not in cases]
    if gone:
        raise StoreError(f"{data}: {gone[0]}, which the run lists, is not there; give the data it was trained on.")
    check(truth)
    order = channel_order(predictor.preparation.channels, source.channels, data)
    images = {name: cases[name].images for name in truth}
    found, left_out = for_each(images, lambda _, files: answer(predictor.prepare(files, order)), on_case)
    about = {"run": str(run), "data": str(data), "split": split, "left_out": left_out}
    return (
        {name: truth[name] for name in found},
        found,
        about | ({"table": str(table), "notes": notes} if table is not None else {}),
    )


def metric_rows(metrics: Mapping[str, Metric], result: Mapping[str, Any]) -> list[list[str]]:
    """A table's rows: each metric, its value, its interval, and what a constant guess scores."""
    rows = []
    for key, metric in metrics.items():
        scores = result[key]
        low_high = scores["ci95"]
        interval = "–" if low_high is None else f"{metric.text(low_high[0])} to {metric.text(low_high[1])}"
        rows.append([metric.heading(), metric.text(scores["value"]), interval, metric.text(scores["chance"])])
    return rows


def table_note(result: Mapping[str, Any]) -> str:
    """What stands below the table: who takes no part, and the convention."""
    notes: Sequence[str] = [*result.get("notes", ()), result["convention"]]
    left_out = (
        f"Left out, since they cannot be used: {', '.join(result['left_out'])}." if result.get("left_out") else ""
    )
    return " ".join(filter(None, [*notes, left_out]))

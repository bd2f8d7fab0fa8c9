"""How good a segmentor is: its label maps against the references, in each scan's own geometry."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voxmim.errors import StoreError, VoxmimError
from voxmim.files import write_text
from voxmim.images.geometry import resample_labels
from voxmim.images.repair import fitting_label
from voxmim.sources import open_source
from voxmim.sources.source import SPLITS
from voxmim.store.format import INDEX, Store
from voxmim.store.prepare import prepare_scan
from voxmim.tasks.metrics import METRICS, convention
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.tasks.segmentation.prior import PRIOR, PositionPrior
from voxmim.tasks.segmentation.scores import Scores, score_case, summarise
from voxmim.weights.files import find_weights

LabelledCase = tuple[str, tuple[Path, ...], Path]


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    tolerance_mm: float = 2.0,
    on_case: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a segmentor, and the position-only prior of the same labels beside it.

    Every scan is read from its own file and labelled as `predict` labels it; nothing is scored in resampled space.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store (its source files must still be there) or a folder of labelled scans; a split that has to be
            drawn is drawn as it was for the training.
        split: ``train``, ``val`` or ``test``; ``all`` takes every labelled case.
        tolerance_mm: of the normalised surface Dice.
        on_case: called with the cases done and their number.

    Returns:
        what `scores.summarise` gives, with ``run``, ``data``, ``split``, ``tolerance_mm``, ``convention``,
        ``left_out`` (cases that lack a channel) and, where the run has one, ``prior`` (the same figures for the
        position-only prior).

    Raises:
        StoreError: no labelled case in this split.
        ScanError: a source file is missing or cannot be used.
        WeightsError: the run holds no segmentor.
        VoxmimError: the tolerance is negative.
    """
    if not tolerance_mm >= 0:
        raise VoxmimError(f"tolerance {tolerance_mm} mm: it must be 0 or more; change it.")
    segmentor = Segmentor.load(run)
    cases, left_out = labelled_cases(data, split, segmentor.metadata["data"]["seed"])
    prior_file = find_weights(run, "segmentor").parent / PRIOR
    prior = PositionPrior.load(prior_file) if prior_file.is_file() else None
    scores: dict[str, dict[str, Scores]] = {}
    prior_scores: dict[str, dict[str, Scores]] = {}
    parts = segmentor.structures.parts
    for done, (name, images, label) in enumerate(cases):
        if on_case is not None:
            on_case(done, len(cases))
        scan = prepare_scan(images, segmentor.preparation)
        reference = fitting_label(label, scan.original, images[0])
        found = segmentor.label_map(scan)
        scores[name] = score_case(found, reference, parts, scan.original.spacing, tolerance_mm)
        if prior is not None:
            guess = resample_labels(prior.predict(scan.grid.shape), scan.grid, scan.original)
            prior_scores[name] = score_case(guess, reference, parts, scan.original.spacing, tolerance_mm)
    if on_case is not None:
        on_case(len(cases), len(cases))
    about: dict[str, Any] = {
        "run": str(run),
        "data": str(data),
        "split": split,
        "tolerance_mm": tolerance_mm,
        "convention": convention(),
    }
    about["left_out"] = left_out
    return {**about, **summarise(scores), **({"prior": summarise(prior_scores)} if prior is not None else {})}


def labelled_cases(data: Path, split: str, seed: int = 0) -> tuple[list[LabelledCase], list[str]]:
    """Name, image files and label file of every labelled case of a split, from a store or a folder of scans.

    Cases that lack a channel are left out, and their names given beside.

    Args:
        data: the store or folder.
        split: which cases; ``all`` takes every one.
        seed: of the split, where the folder has none.

    Raises:
        StoreError: there is none.
    """
    if (data / INDEX).is_file():
        entries = Store(data).in_split(*(SPLITS if split == "all" else (split,)))
        known = [(case.name, tuple(map(Path, case.image)), Path(case.label), case.missing)
                 for case in entries if case.label]  # fmt: skip
    else:
        cases = [case for case in open_source(data, seed).cases if split in ("all", case.split)]
        known = [(case.name, case.images, case.label, case.missing) for case in cases if case.label]
    found = [(name, images, label) for name, images, label, missing in known if not missing]
    left_out = [name for name, _, _, missing in known if missing]
    if not found:
        lacking = f" that has every channel ({len(left_out)} lack one)" if left_out else ""
        raise StoreError(f"{data}: it has no labelled case{lacking} in the split '{split}'; name another with --split.")
    return found, left_out


def write_json(file: Path, result: dict[str, Any]) -> None:
    """Write an evaluation as JSON in one stroke."""
    write_text(file, json.dumps(result, indent=1))


def write_csv(file: Path, result: dict[str, Any]) -> None:
    """Write an evaluation as CSV in one stroke: a row per case and label."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["case", "label", *METRICS])
    for case in result["cases"]:
        for label in case["dice"]:
            figures = (case[metric][label] for metric in METRICS)
            rows.writerow([case["case"], label, *("" if figure is None else figure for figure in figures)])
    write_text(file, text.getvalue())

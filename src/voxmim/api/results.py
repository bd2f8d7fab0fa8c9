"""What comes of a training: figures, label maps, reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from voxmim.api.tasks import refuse_classes, task_of
from voxmim.report.classifier_page import classify_page
from voxmim.report.reconstruct import reconstruct as _reconstruct
from voxmim.report.run_pages import finetune_page
from voxmim.tasks.classification import evaluate as scan_evaluation
from voxmim.tasks.classification.evaluate import result_rows
from voxmim.tasks.classification.predict import predict as _predict_classes
from voxmim.tasks.segmentation import evaluate as evaluation
from voxmim.tasks.segmentation.predict import predict as _predict
from voxmim.tasks.segmentation.predict import scan_files
from voxmim.training.run import ABOUT, Run

__all__ = ["evaluate", "predict", "reconstruct", "result_rows"]


def evaluate(
    run: Path | str,
    data: Path | str,
    split: str = "test",
    tolerance_mm: float = 2.0,
    json_file: Path | str | None = None,
    csv_file: Path | str | None = None,
    on_case: Callable[[int, int], None] | None = None,
    classes: Path | str | None = None,
) -> dict[str, Any]:
    """Score a segmentor in each scan's own geometry, with the position-only prior beside it, or a classifier.

    The result is kept in the run folder (``evaluation-SPLIT.json``) and shown in its report.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store or a folder of labelled scans (for a classifier, of scans).
        split: ``train``, ``val``, ``test``, or ``all`` of the labelled cases.
        tolerance_mm: of the normalised surface Dice.
        json_file: write the result there too.
        csv_file: write a row per case and label there, or of a classifier a row per case.
        on_case: called with the cases done and their number.
        classes: for a classifier, a CSV file of other classes than those the run was given.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    run = Path(run)
    if (run / ABOUT).is_file():
        Run.open(run, "finetune")
    if task_of(run) == "classification":
        return _evaluate_classes(run, Path(data), split, json_file, csv_file, on_case, classes)
    refuse_classes(classes)
    result = evaluation.evaluate(run, Path(data), split, tolerance_mm, on_case)
    if json_file is not None:
        evaluation.write_json(Path(json_file), result)
    if csv_file is not None:
        evaluation.write_csv(Path(csv_file), result)
    if (run / ABOUT).is_file():
        evaluation.write_json(run / f"evaluation-{split}.json", result)
        finetune_page(Run.open(run))
    return result


def _evaluate_classes(
    run: Path,
    data: Path,
    split: str,
    json_file: Path | str | None,
    csv_file: Path | str | None,
    on_case: Callable[[int, int], None] | None,
    classes: Path | str | None,
) -> dict[str, Any]:
    """`evaluate` of a classifier."""
    own = Run.open(run) if (run / ABOUT).is_file() else None
    listed, table = None if own is None else own.about["listed"], None if classes is None else Path(classes)
    result = scan_evaluation.evaluate(run, data, split, listed, table, on_case)
    if json_file is not None:
        evaluation.write_json(Path(json_file), result)
    if csv_file is not None:
        scan_evaluation.write_csv(Path(csv_file), result)
    if own is not None:
        evaluation.write_json(run / f"evaluation-{split}.json", result)
        classify_page(own)
    return result


def predict(
    run: Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    probabilities: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Label scans: ``CASE.nii.gz`` for each, in the scan's own grid; or tell their classes in ``predictions.csv``.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files or folders.
        out: folder for the label maps, or for the table of a classifier.
        probabilities: write the probability of each label, or of each region, too; those of classes are always written.
        on_case: called with the scans done and their number.

    Returns:
        the label maps written, or the table.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    if task_of(Path(run)) == "classification":
        return _predict_classes(Path(run), [Path(scan) for scan in scans], Path(out), on_case)
    return _predict(Path(run), [Path(scan) for scan in scans], Path(out), probabilities, on_case)


def reconstruct(
    run: Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Show what a pre-trained network makes of hidden parts: a picture and three NIfTI volumes per scan.

    Args:
        run: a pre-training's run folder.
        scans: files or folders.
        out: folder for the results.
        seed: of the masks.
        on_case: called with the scans done and their number.

    Returns:
        the pictures written.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return _reconstruct(Path(run), scan_files([Path(scan) for scan in scans]), Path(out), seed, on_case)

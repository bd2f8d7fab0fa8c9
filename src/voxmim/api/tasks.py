"""What a fine-tuning is for: the labels of voxels, or the classes of whole scans."""

from __future__ import annotations

from pathlib import Path

from voxmim.errors import RunError
from voxmim.training.run import ABOUT, Run
from voxmim.weights.files import holds_classifier

TASKS = ("segmentation", "classification")


def task_of(run: Path) -> str:
    """``segmentation`` or ``classification``: what a fine-tuning's run folder, or a weights file, is for."""
    if (run / ABOUT).is_file():
        return str(Run.open(run).about.get("task", "segmentation"))
    return "classification" if holds_classifier(run) else "segmentation"


def refuse_classes(classes: Path | str | None) -> None:
    """Refuse a table of classes for what is no classification.

    Raises:
        RunError: there is one.
    """
    if classes is not None:
        raise RunError(f"{classes}: classes of whole scans are for a classification, which this is not; leave it out.")

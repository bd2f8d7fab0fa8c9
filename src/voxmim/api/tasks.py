"""The task of a fine-tuning: the labels of voxels, or the classes of whole scans."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

TASKS = ("segmentation", "classification")


def task_of(run: Path) -> Literal["segmentation", "classification"]:
    """The task of a fine-tuning's run folder or weights file."""
    from voxmim.training.run import ABOUT, Run
    from voxmim.weights.files import holds_classifier

    if (run / ABOUT).is_file():
        classifies = Run.open(run).about.get("task") == "classification"
    else:
        classifies = holds_classifier(run)
    return "classification" if classifies else "segmentation"


def refuse_classes(classes: Path | str | None) -> None:
    """Refuse a table of classes for a segmentation.

    Raises:
        RunError: there is one.
    """
    from voxmim.errors import RunError

    if classes is not None:
        raise RunError(f"{classes}: a table of classes is for a classification, and this is a segmentation; omit it.")

"""The tasks that an encoder can be fine-tuned for."""

import json
from pathlib import Path

from voxmim.tasks.classification.task import Classification
from voxmim.tasks.regression.task import Regression
from voxmim.tasks.segmentation.task import Segmentation
from voxmim.tasks.task import Task
from voxmim.weights.files import holds

TASKS: dict[str, type[Task]] = {task.name: task for task in (Segmentation, Classification, Regression)}


def task_of(run: Path) -> type[Task]:
    """The task of a fine-tuning's run folder or weights file; segmentation by default."""
    about = run / "run.json"
    if about.is_file():
        return TASKS[json.loads(about.read_text()).get("task", Segmentation.name)]
    return next((task for task in TASKS.values() if holds(run, task.product)), Segmentation)

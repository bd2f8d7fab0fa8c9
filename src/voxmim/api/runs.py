"""Runs in notebooks."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmim.viewer.notebook import OpenRun


def open_run(path: Path | str) -> "OpenRun":
    """Open a run in a notebook.

    ``run.metrics`` are the rows of metrics.csv (a DataFrame where pandas is installed), ``run.figures`` the pictures of
    its report, ``run.cases`` the names of the cases that ``run.show(case)`` shows: scan, reference and prediction, or
    scan, masked input and reconstruction, as a NiiVue widget where ipyniivue is installed and otherwise as a picture.

    Args:
        path: run folder of a training, finished or not.

    Raises:
        VoxmimError: this is no run folder.
    """
    from voxmim.viewer.notebook import OpenRun

    return OpenRun(path)

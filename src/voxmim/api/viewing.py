"""Show scans and results in the browser and in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmim.viewer.notebook import OpenRun


def view(path: Path | str, port: int = 0, no_browser: bool = False) -> None:
    """Show a run, a study, a store, a folder of scans or a scan in the browser, until interrupted.

    The page shows three planes and 3D, label maps and reconstructions as layers, learning curves, and findings about
    files. It is served on this machine only, under an address with a random token.

    Args:
        path: run, study, store, folder or list of scans, or one scan of any readable format.
        port: port on 127.0.0.1. Default: a free one.
        no_browser: only print the address.

    Raises:
        VoxmimError: the path cannot be shown, or the port is in use.
    """
    from voxmim.viewer.opening import open_collection
    from voxmim.viewer.server import serve

    serve(open_collection(Path(path)), port, not no_browser)


def open_run(path: Path | str) -> OpenRun:
    """Open a run in a notebook.

    ``run.metrics`` has the rows of metrics.csv (a DataFrame if pandas is installed), ``run.figures`` the pictures of
    the report. ``run.show(case)`` shows scan, reference and prediction, or scan, masked input and reconstruction, of
    one of ``run.cases``: as a NiiVue widget if ipyniivue is installed, otherwise as a picture.

    Args:
        path: run folder of a training, finished or not.

    Raises:
        VoxmimError: this is no run folder.
    """
    from voxmim.viewer.notebook import OpenRun

    return OpenRun(path)

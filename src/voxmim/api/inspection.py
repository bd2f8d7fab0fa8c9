"""The data doctor: what is wrong with a source, and what its scans are like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmim.doctor.inspect import Inspection


def inspect(
    source: Path | str,
    json_file: Path | str | None = None,
    html_file: Path | str | None = None,
    workers: int | None = None,
    match_channels: bool = False,
    on_case: Callable[[int, int], None] | None = None,
    scheduler: str | None = None,
) -> Inspection:
    """Check every file of a source, and describe its scans.

    Findings say what is wrong and what 'prepare' will do about it. Every file is read once and none is changed. The
    exit status is 1 if anything is left out or in doubt.

    Args:
        source: folder or list of scans, as 'prepare' takes it.
        json_file: write findings and fingerprint to this JSON file.
        html_file: write a page with findings, histograms and pictures to this file.
        workers: number of processes. Default: one per CPU core.
        match_channels: resample channels of another grid to the grid of the first, as 'prepare' does.
        on_case: called with the number of cases done and their total.
        scheduler: address of a Dask scheduler whose workers read the files.

    Returns:
        The findings of every scan, and the fingerprint of the cohort.

    Raises:
        VoxmimError: the source cannot be read.
    """
    from voxmim.doctor.inspect import inspect_source
    from voxmim.files import write_json

    found = inspect_source(source, workers, match_channels, on_case, scheduler)
    if json_file is not None:
        write_json(Path(json_file), found.as_dict())
    if html_file is not None:
        from voxmim.report.inspection import inspection_page

        inspection_page(Path(html_file), found)
    return found

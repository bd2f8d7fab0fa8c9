"""The data doctor: what is wrong with a source, and what its scans are like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from voxmim.doctor.inspect import Inspection, inspect_source
from voxmim.files import write_text
from voxmim.report.inspection import finding_rows, inspection_page, verdict

__all__ = ["Inspection", "finding_rows", "inspect", "verdict"]


def inspect(
    source: Path | str,
    json_file: Path | str | None = None,
    html_file: Path | str | None = None,
    workers: int | None = None,
    match_channels: bool = False,
    on_case: Callable[[int, int], None] | None = None,
    scheduler: str | None = None,
) -> Inspection:
    """Read every file of a source once and tell what is wrong with it, what `prepare` will do, and what it is like.

    Args:
        source: a folder of scans, as `prepare` takes it.
        json_file: write findings and fingerprint there, as JSON.
        html_file: write a page of them there, with pictures.
        workers: processes; None takes one per CPU core.
        match_channels: as of `prepare`.
        on_case: called with the cases done and their number.
        scheduler: address of a Dask scheduler, whose workers read the files instead.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    found = inspect_source(source, workers, match_channels, on_case, scheduler)
    if json_file is not None:
        write_text(Path(json_file), json.dumps(found.as_dict(), indent=1))
    if html_file is not None:
        inspection_page(Path(html_file), found)
    return found

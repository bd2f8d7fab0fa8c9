"""Vectors of scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmim.export.embed import Embeddings


def embed(
    run: Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    nearest: int = 0,
    on_case: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Turn each scan into one vector, to search, group or compare scans.

    The vector is the mean of the encoder's bottleneck features over the body. The file has one row per scan, with the
    columns case and embedding; pandas.read_parquet reads it.

    Args:
        run: run folder of a training, or its weights file.
        scans: scans, or folders of them.
        out: file to write, ending in .parquet.
        nearest: print so many nearest neighbours of each scan, by the cosine of the vectors.
        on_case: called with the number of scans done and their total.

    Returns:
        The file, how many vectors of which width it has, and the neighbours.

    Raises:
        VoxmimError: the run or a scan cannot be used, or a package is missing.
    """
    from voxmim.export.embed import embed

    return embed(Path(run), [Path(scan) for scan in scans], Path(out), nearest, on_case)

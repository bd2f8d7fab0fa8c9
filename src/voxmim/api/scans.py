"""Scans and stores: phantoms, and what makes a store of scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voxmim.phantoms.cohort import write_cohort
from voxmim.store.prepare import PrepareResult, prepare
from voxmim.store.split import split
from voxmim.store.verify import verify

__all__ = ["PrepareResult", "phantom", "prepare", "split", "verify"]


def phantom(
    out: Path | str,
    cases: int = 40,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
    kind: str = "trunk",
) -> Path:
    """Write a cohort of phantoms with labels, in the layout of the Medical Segmentation Decathlon.

    Args:
        out: a new folder.
        cases: how many.
        seed: of the anatomies and the split.
        on_case: called with the cases done and their number.
        kind: ``trunk``, a CT with six organs, or ``head``, an MR of four channels with a tumour.
    """
    write_cohort(Path(out), cases, seed, on_case, kind)
    return Path(out)

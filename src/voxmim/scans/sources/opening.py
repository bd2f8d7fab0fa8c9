"""Opening a source: which kind of folder it is, which cases it has, and which split each of them is in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.scans.sources.decathlon import decathlon
from voxmim.scans.sources.pairs import has_pairs, paired_cases
from voxmim.scans.sources.plain import plain_folder
from voxmim.scans.sources.source import Source
from voxmim.scans.sources.splits import draw_split, follow_splits
from voxmim.scans.volume import SCAN_ENDINGS


def open_source(path: Path | str, seed: int = 0) -> Source:
    """Find the cases of a folder of scans; no scan is read.

    Args:
        path: the folder.
        seed: of the split that is drawn where there is no splits.json.

    Raises:
        SourceError: the folder is missing or empty, its dataset.json or splits.json contradicts it, or the seed is
            negative.
    """
    path = Path(path).absolute()
    if seed < 0:
        raise SourceError(f"{path}: the seed of the split is {seed}, but must be 0 or more; choose another.")
    if not path.is_dir():
        raise SourceError(f"{path}: there is no such folder; check the path.")
    source = _of_its_kind(path)
    if not source.cases:
        more = f" ({source.findings[0].reason})" if source.findings else ""
        raise SourceError(
            f"{path}: there is no scan (DICOM, {', '.join(SCAN_ENDINGS)}) in this folder{more}; check the path."
        )
    twin, count = Counter(case.name for case in source.cases).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{path}: {count} scans have the same name {twin}; rename or remove one of them.")
    cases = [replace(case, group=case.group or case.name) for case in source.cases]
    splits = path / "splits.json"
    cases = follow_splits(splits, cases) if splits.is_file() else draw_split(cases, seed)
    return replace(source, cases=tuple(sorted(cases, key=lambda case: case.name)), seed=seed)


def _of_its_kind(path: Path) -> Source:
    """The source as its own kind of folder reads it, without splits."""
    if (path / "dataset.json").is_file():
        return decathlon(path)
    if has_pairs(path):
        return Source(path, path.name, ("image",), {}, tuple(paired_cases(path)))
    return plain_folder(path)

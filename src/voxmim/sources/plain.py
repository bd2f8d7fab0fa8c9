"""Any folder of scans, at any depth and of mixed formats, DICOM series too; all are unlabelled."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from voxmim.images.formats.dicom import find_series
from voxmim.images.volume import case_name, is_scan
from voxmim.sources.listing import findings_of
from voxmim.sources.source import Source, SourceCase


def plain_folder(path: Path) -> Source:
    """Every scan below the folder, but for hidden folders; scans of one name get their folders' names before it."""
    files = [file for file in path.rglob("*") if is_scan(file) and not _is_hidden(file.relative_to(path))]
    series = find_series(path)
    files = sorted([*files, *(each.path for each in series if each.fault is None)])
    names = names_of(files, path)
    cases = tuple(SourceCase(names[file], (file,), None, "unlabelled") for file in files)
    found = tuple(finding for each in series for finding in findings_of(each))
    return Source(path, path.name, ("image",), {}, cases, findings=found)


def names_of(files: Sequence[Path], path: Path) -> dict[Path, str]:
    """The case's name of each file: the file's own or, where several have the same, with the folders below `path`."""
    clashes = Counter(map(case_name, files))
    names = {}
    for file in files:
        folders = Path(os.path.relpath(file.parent, path)).parts if clashes[case_name(file)] > 1 else ()
        names[file] = "-".join([*(folder for folder in folders if folder != ".."), case_name(file)])
    return names


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

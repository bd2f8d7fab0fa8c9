"""Any folder of scans, at any depth and of mixed formats, DICOM series too; all are unlabelled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from voxmim.scans.findings import Finding
from voxmim.scans.formats.dicom import Series, find_series
from voxmim.scans.sources.source import Source, SourceCase
from voxmim.scans.volume import case_name, is_scan


def plain_folder(path: Path) -> Source:
    """Every scan below the folder, but for hidden folders; scans of one name get their folders' names before it."""
    files = [file for file in path.rglob("*") if is_scan(file) and not _is_hidden(file.relative_to(path))]
    series = find_series(path)
    files = sorted([*files, *(each.path for each in series if each.fault is None)])
    clashes = Counter(map(case_name, files))
    cases = []
    for file in files:
        short = case_name(file)
        folders = file.parent.relative_to(path).parts if clashes[short] > 1 else ()
        cases.append(SourceCase("-".join([*folders, short]), (file,), None, "unlabelled"))
    found = tuple(finding for each in series for finding in findings_of(each))
    return Source(path, path.name, ("image",), {}, tuple(cases), findings=found)


def findings_of(series: Series) -> list[Finding]:
    """What there is to say of a DICOM series."""
    path, kind = str(series.path), "dicom series"
    found = [Finding(path, kind, f"{path}: {note}", "repaired") for note in series.notes]
    return found if series.fault is None else [*found, Finding(path, kind, f"{path}: {series.fault}", "left out")]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

"""The scans in one folder: its files, and the folders in it that hold one scan each, mostly as DICOM slices."""

from __future__ import annotations

from pathlib import Path

from voxmim.errors import SourceError
from voxmim.findings import Finding
from voxmim.images.formats.dicom import Series, find_series
from voxmim.images.formats.dicom_file import is_dicom_file, is_segmentation, read_planes
from voxmim.images.volume import is_scan


def scans_in(folder: Path) -> list[Path]:
    """The scans or label maps of a folder, sorted; each is called as its file or folder is.

    Raises:
        SourceError: DICOM slices lie in the folder itself, so that it isn't told which are one scan.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if any(is_scan(file) or is_dicom_file(file) for file in path.rglob("*")):
                found.append(path)
        elif is_scan(path):
            found.append(path)
        elif is_dicom_file(path):
            told = read_planes(path)
            if told.fault is None and not told.enhanced:
                raise SourceError(
                    f"{path}: DICOM slices lie loose here; put those of each case in a folder of its name."
                )
            found.append(path)
    return found


def label_file(path: Path) -> Path:
    """What `read_label` takes: of a folder that holds nothing but one DICOM segmentation, that file."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return files[0] if len(files) == 1 and is_segmentation(files[0]) else path


def told_of(path: Path) -> list[Finding]:
    """What was repaired or left out in a scan's own folder; nothing where no scan is left, which its case will tell."""
    series = find_series(path) if path.is_dir() else []
    if all(each.fault is not None for each in series):
        return []
    return [finding for each in series for finding in findings_of(each)]


def findings_of(series: Series) -> list[Finding]:
    """What there is to say of a DICOM series."""
    path, kind = str(series.path), series.kind
    found = [Finding(path, kind, f"{path}: {note}.", "repaired") for note in series.notes]
    return found if series.fault is None else [*found, Finding(path, kind, f"{path}: {series.fault}.", "left out")]

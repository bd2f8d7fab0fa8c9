"""Finding the scans in folders: files and DICOM series; others are left out with a finding."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.findings import Finding
from voxmim.images.formats.dicom import Series, find_series
from voxmim.images.formats.dicom_file import is_dicom_file, is_segmentation
from voxmim.images.formats.dicom_planes import read_planes
from voxmim.images.volume import case_name, is_scan, is_segmentation_name
from voxmim.images.walk import files_below, has_utf8_name, printable


def scans_below(folder: Path) -> tuple[list[Path], list[Finding]]:
    """All scans below a folder, at any depth and of any format, sorted; and findings on files left out or repaired."""
    scans, findings = [], []
    for file in files_below(folder):
        if is_segmentation_name(file):
            text = "this is a segmentation of 3D Slicer, which is a label map and no scan."
            findings.append(Finding.of(file, "no scan", text))
        elif is_scan(file):
            scans.append(file)
    series = find_series(folder)
    scans += [each.path for each in series if each.fault is None]
    findings += [finding for each in series for finding in findings_of(each)]
    findings += [odd_name(path) for path in scans if not has_utf8_name(path)]
    return sorted(path for path in scans if has_utf8_name(path)), findings


def odd_name(path: Path) -> Finding:
    """The finding on a path that is not UTF-8."""
    return Finding.of(printable(path), "name", "this path is not UTF-8; rename it.")


def names_of(own: Mapping[Path, str], folder: Path) -> dict[Path, str]:
    """A unique case name for each file: its `own`, preceded by the folders below `folder` if others have the same.

    Files of the same name and folder, such as ``a.nii`` and ``a.nii.gz``, keep their endings.
    """
    names = dict(own)
    for with_ending in (False, True):
        count = Counter(names.values())
        for file in [file for file in own if count[names[file]] > 1]:
            folders = [part for part in Path(os.path.relpath(file.parent, folder)).parts if part not in ("..", ".")]
            names[file] = "-".join([*folders, file.name if with_ending else own[file]])
    return names


def scans_in(folder: Path) -> tuple[dict[str, Path], list[Finding]]:
    """The scans or label maps in a folder, by name: files, or folders of one scan each.

    Raises SourceError if DICOM slices are in the folder itself, so that they cannot be assigned to cases.
    """
    scans: dict[str, Path] = {}
    findings = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or not _holds_scan(path):
            continue
        other = scans.setdefault(case_name(path), path)
        if other != path:
            text = f"{other.name} has the same name and is used; rename or remove one of them."
            findings.append(Finding.of(path, "name", text))
    return scans, findings


def _holds_scan(path: Path) -> bool:
    """Whether a path is a scan or a folder that contains one; raises SourceError for a single DICOM slice."""
    if path.is_dir():
        return any(is_scan(file) or is_dicom_file(file) for file in files_below(path))
    if is_scan(path) or not is_dicom_file(path):
        return is_scan(path)
    planes = read_planes(path)
    if planes.fault is None and not planes.enhanced:
        raise SourceError(f"{path}: DICOM slices lie loose here; put those of each case in a folder of its name.")
    return True


def label_file(path: Path) -> Path:
    """The file of a label map: the path, or the single DICOM segmentation in a folder."""
    files = list(files_below(path)) if path.is_dir() else []
    return files[0] if len(files) == 1 and is_segmentation(files[0]) else path


def findings_in(path: Path) -> list[Finding]:
    """Findings on the series in a scan's folder; none if no scan is left, which is reported for the case."""
    series = find_series(path) if path.is_dir() else []
    if all(each.fault is not None for each in series):
        return []
    return [finding for each in series for finding in findings_of(each)]


def findings_of(series: Series) -> list[Finding]:
    """Findings on the notes and the fault of a DICOM series."""
    path, kind = printable(series.path), series.kind
    findings = [Finding.of(path, kind, f"{note}.", "repaired") for note in series.notes]
    return findings if series.fault is None else [*findings, Finding.of(path, kind, f"{series.fault}.")]

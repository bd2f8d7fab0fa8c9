"""Opening a source: its kind, its cases and their splits."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.images.volume import SCAN_ENDINGS, case_name
from voxmim.images.walk import has_utf8_name, printable
from voxmim.sources.bids import bids
from voxmim.sources.datalist import LIST_ENDINGS, datalist
from voxmim.sources.dataset_json import dataset_folder
from voxmim.sources.jsons import read_object
from voxmim.sources.listing import findings_in, names_of, odd_name, scans_below
from voxmim.sources.pairs import has_pairs, paired_cases
from voxmim.sources.source import Source, SourceCase
from voxmim.sources.splits import SPLITS_FILES, draw_split, follow_splits

UNNAMED = ("image",)  # the channels of a folder that does not name them


def open_source(path: Path | str, seed: int = 0) -> Source:
    """Find the cases of a folder or list without reading scans, and split them at random if they have no splits.

    Raises SourceError if the source is missing or empty, or contradicts itself.
    """
    path = Path(path).absolute()
    if seed < 0:
        raise SourceError(f"{path}: the seed of the split is {seed}, but must be 0 or more; choose another.")
    source = read_source(path)
    if not source.cases:
        more = f" ({source.findings[0].reason})" if source.findings else ""
        raise SourceError(
            f"{path}: there is no scan (DICOM, {', '.join(SCAN_ENDINGS)}) in this folder{more}; check the path."
        )
    twin, count = Counter(case.name for case in source.cases).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{path}: {count} scans have the same name {twin}; rename or remove one of them.")
    cases = [replace(case, group=case.group or case.name) for case in source.cases]
    splits = next((path / name for name in SPLITS_FILES if (path / name).is_file()), None)
    cases = draw_split(cases, seed) if splits is None else follow_splits(splits, cases)
    return replace(source, cases=tuple(sorted(cases, key=lambda case: case.name)), seed=seed)


def is_list(path: Path) -> bool:
    """Whether a path has the ending of a list of cases."""
    return path.is_file() and path.suffix.lower() in LIST_ENDINGS


def read_source(path: Path) -> Source:
    """Find the cases of a folder or list, of which there may be none, without splitting them. Raises SourceError."""
    if not has_utf8_name(path):
        raise SourceError(f"{printable(path)}: this path is not UTF-8; rename the folder.")
    return _without_odd_names(_read_source(path))


def _read_source(path: Path) -> Source:
    if path.is_file():
        if not is_list(path):
            raise SourceError(f"{path}: a folder of scans is expected, or a list of them ({', '.join(LIST_ENDINGS)}).")
        return _with_series_findings(datalist(path))
    if not path.is_dir():
        raise SourceError(f"{path}: there is no such folder or list; check the path.")
    if (path / "dataset_description.json").is_file():
        return bids(path)
    if (path / "dataset.json").is_file():
        return _with_series_findings(dataset_folder(path, read_object(path / "dataset.json")))
    if has_pairs(path):
        cases, findings = paired_cases(path, UNNAMED)
        return _with_series_findings(Source(path, path.name, UNNAMED, {}, tuple(cases), findings=tuple(findings)))
    files, findings = scans_below(path)
    names = names_of({file: case_name(file) for file in files}, path)
    plain = tuple(SourceCase(names[file], (file,), None, "unlabelled") for file in files)
    return Source(path, path.name, UNNAMED, {}, plain, findings=tuple(findings))


def _with_series_findings(source: Source) -> Source:
    """The source with findings on the DICOM folders of its cases."""
    found = (finding for case in source.cases for image in case.images for finding in findings_in(image))
    return replace(source, findings=(*source.findings, *found))


def _without_odd_names(source: Source) -> Source:
    """Leave out the cases with a path that is not UTF-8."""
    odd = {case.name: odd_name(file) for case in source.cases for file in case.files if not has_utf8_name(file)}
    cases = tuple(case for case in source.cases if case.name not in odd)
    return replace(source, cases=cases, findings=(*source.findings, *odd.values()))

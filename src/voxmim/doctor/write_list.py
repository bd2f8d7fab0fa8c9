"""An inspected source as a list for `prepare`, in which labels, splits and patients can be filled in."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from voxmim.doctor.inspect import Inspection
from voxmim.errors import SourceError
from voxmim.files import write_csv
from voxmim.images.volume import case_name
from voxmim.sources import SourceCase


def refuse_list(file: Path) -> None:
    """Raise SourceError unless the file is a new one that ends in .csv."""
    if file.suffix.lower() != ".csv":
        raise SourceError(f"{file}: a list is written as CSV; give a file name that ends in .csv.")
    if file.exists():
        raise SourceError(f"{file}: it is there already and may have been edited; give another file name.")


def write_list(file: Path, found: Inspection) -> None:
    """Write a row per case that is not left out; paths are relative to the list where they are below its folder.

    A file that looks like a label map is put beside its scan (see `_scan_of`). Where that is unclear, it gets a row
    without an image, which `prepare` refuses until someone decides. Raises SourceError for one file of several
    channels, which a CSV list cannot describe.
    """
    doubted = {one.file for one in found.findings if one.kind == "label map"}
    unusable = {one.file for one in found.findings if one.action == "left out"}
    scans, masks = list[SourceCase](), list[Path]()
    for case in (case for case in found.source.cases if case.name in found.facts):
        if case.label is None and doubted.issuperset(map(str, case.images)):
            masks += case.images
        else:
            scans.append(case)
    masks_of = defaultdict[str, list[Path]](list)
    for mask in masks:
        masks_of[_scan_of(mask, scans)].append(mask)

    def shown(path: Path | None) -> str:
        if path is None or str(path) in unusable:
            return ""
        folder = file.absolute().parent
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    channels = found.source.channels
    columns = ["image"] if len(channels) == 1 else [f"image:{name}" for name in channels]
    rows = []
    for case in scans:
        there = [column for index, column in enumerate(columns) if index not in case.missing]
        if len(there) != len(case.images):
            raise SourceError(f"{case.images[0]}: it has several channels, which a CSV list cannot name; write JSON.")
        row = {"case": case.name, **dict(zip(there, map(shown, case.images), strict=True)), "label": shown(case.label)}
        if len(masks_of.get(case.name, ())) == 1:
            row["label"] = shown(masks_of.pop(case.name)[0])
        if case.label is not None:
            row |= {"split": case.split, "annotated": ";".join(map(str, case.annotated or ()))}
        rows.append(row | {"group": case.group if case.group != case.name else ""})
    rows += [{"case": case_name(mask), "label": shown(mask)} for unclear in masks_of.values() for mask in unclear]
    write_csv(file, rows, ["case", *columns, "label", "split", "group", "annotated"])


def _scan_of(mask: Path, scans: Sequence[SourceCase]) -> str:
    """The case that a label map is named after (``x_seg``), or else the only one in its folder; empty if unclear."""
    near = [case for case in scans if case.images[0].parent == mask.parent]
    names = {case.name: f"{case_name(case.images[0])}_" for case in scans}
    alike = [case for case in scans if f"{case_name(mask)}_".startswith(names[case.name])]
    longest = max((len(names[case.name]) for case in alike), default=0)
    alike = [case for case in alike if len(names[case.name]) == longest]
    choices = ([case for case in near if case in alike], alike, near)
    return next((choice[0].name for choice in choices if len(choice) == 1), "")

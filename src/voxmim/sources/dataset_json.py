"""A folder with a dataset.json, in the layout of the Medical Segmentation Decathlon or nnU-Net.

```
SOURCE/dataset.json   name, channel_names (or modality), labels, regions (unions of label values), licence,
                      unlabelled_folder, annotated (the annotated labels of cases that lack others); the label "ignore"
                      marks voxels that nobody annotated. With the key file_ending it is nnU-Net's: a label may be a
                      list of values, which makes all labels regions, and file names end with the channel's number
SOURCE/imagesTr, labelsTr, imagesTs, labelsTs, extra_unlabelled   see `pairs`
SOURCE/splits_final.json   of nnU-Net: a list of folds, of which the first is used
```
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError, nearest
from voxmim.findings import Finding
from voxmim.sources.pairs import paired_cases
from voxmim.sources.source import IGNORE, Source, SourceCase, annotated_values


def dataset_folder(path: Path, values: Mapping[str, Any]) -> Source:
    """Find the cases of a folder whose dataset.json has these values; raises SourceError if there is no imagesTr."""
    file = path / "dataset.json"
    source = describe(file, values)
    if not (path / "imagesTr").is_dir():
        raise SourceError(f"{path}: there is a dataset.json but no folder imagesTr; put the scans there.")
    further = [str(values["unlabelled_folder"])] if values.get("unlabelled_folder") else []
    absent = "which is missing; add the folder or remove the key."
    findings = [
        Finding.of(path / folder, "unreadable", f"the key unlabelled_folder of {file} names this folder, {absent}")
        for folder in further
        if not (path / folder).is_dir()
    ]
    cases, more = paired_cases(path, source.channels, further, numbered="file_ending" in values)
    cases = _partly_annotated(file, values.get("annotated", {}), cases, source.labels)
    return replace(source, path=path, cases=tuple(cases), findings=(*findings, *more))


def describe(file: Path, values: Mapping[str, Any]) -> Source:
    """The source of a dataset.json, without cases.

    Raises SourceError if it has no channels or labels, or contradicts itself.
    """
    values = _with_regions(file, values) if "file_ending" in values else values
    channels = values.get("channel_names", values.get("modality"))
    if not isinstance(channels, Mapping) or not channels:
        raise SourceError(f'{file}: the key "channel_names" is missing; add for instance {{"0": "CT"}}.')
    if not isinstance(values.get("labels"), Mapping):
        raise SourceError(f'{file}: the key "labels" is missing; add for instance {{"background": 0, "liver": 1}}.')
    try:
        ordered = tuple(str(channels[key]) for key in sorted(channels, key=int))
        pairs = [(int(a), str(b)) if a.isdigit() else (_integer(b), a) for a, b in values["labels"].items()]
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{file}: channels or labels are not numbered by whole numbers ({error}); repair it."
        ) from None
    labels = {value: name for value, name in sorted(pairs) if value != 0}
    if len({value for value, _ in pairs}) < len(pairs) or any(not 0 <= value <= 255 for value, _ in pairs):
        raise SourceError(f"{file}: label values must be different whole numbers from 0 to 255; repair the file.")
    regions = _regions(file, values.get("regions", {}), labels)
    name, licence = values.get("name") or file.parent.name, values.get("licence") or values.get("license") or ""
    return Source(file, str(name), ordered, labels, (), regions=regions, licence=str(licence))


def _integer(value: object) -> int:
    if type(value) is int or isinstance(value, str):
        return int(value)
    raise ValueError(f"{value!r} is none")


def _regions(file: Path, given: object, labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """The regions in the file's order; raises SourceError if a value is not that of a label."""
    if not isinstance(given, Mapping):
        raise SourceError(f'{file}: "regions" must map names to label values; write for instance {{"WT": [1, 2]}}.')
    for name, values in given.items():
        if not isinstance(values, list) or not values:
            raise SourceError(f"{file}: region '{name}' must be a list of one label value or more; repair the file.")
        strange = [value for value in values if type(value) is not int or value not in labels]
        if strange:
            known = ", ".join(f"{value} {label}" for value, label in labels.items())
            raise SourceError(f"{file}: region '{name}' lists {strange[0]!r}, but the labels are {known}; correct it.")
        if len(set(values)) < len(values):
            raise SourceError(f"{file}: region '{name}' lists a label value twice; leave it in once.")
    return {name: tuple(values) for name, values in given.items()}


def _with_regions(file: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert nnU-Net's labels that are lists of values to regions; then all labels are regions.

    A value that is not a region of its own is named by its number. ``regions_class_order`` is ignored.
    """
    labels = values.get("labels")
    if not isinstance(labels, Mapping):
        return values
    if not any(isinstance(value, list) for value in labels.values()):
        return values
    regions = {
        name: value if isinstance(value, list) else [value]
        for name, value in labels.items()
        if name not in ("background", IGNORE)
    }
    parts = [value for region in regions.values() for value in region]
    if not all(type(value) is int for value in parts):
        raise SourceError(f"{file}: a label must be a whole number or a list of them; repair the file.")
    own = {region[0]: name for name, region in regions.items() if len(region) == 1}
    single = {own.get(value, f"label {value}"): value for value in sorted(set(parts))}
    ignore = {IGNORE: labels[IGNORE]} if IGNORE in labels else {}
    return {**values, "labels": {"background": 0, **single, **ignore}, "regions": regions}


def _partly_annotated(
    file: Path, given: object, cases: Sequence[SourceCase], labels: Mapping[int, str]
) -> list[SourceCase]:
    """The cases, with the annotated labels of those that are listed in `given`."""
    if not isinstance(given, Mapping) or not all(isinstance(named, list) for named in given.values()):
        raise SourceError(f'{file}: "annotated" must map cases to lists of labels, such as {{"case_1": ["liver"]}}.')
    names = [case.name for case in cases]
    if unknown := [name for name in given if name not in names]:
        raise SourceError(
            f'{file}: "annotated" names {unknown[0]}, which is no case{nearest(unknown[0], names) or "."}'
        )
    values = {name: annotated_values(named, labels, f"{file}: {name}") for name, named in given.items()}
    return [replace(case, annotated=values.get(case.name)) for case in cases]

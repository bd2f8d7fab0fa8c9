"""Where the cases of a source are: a folder as the Medical Segmentation Decathlon lays it out, or any folder of scans.

```
SOURCE/dataset.json        name, channel_names (or modality), labels, regions (label values that count together),
                           licence
SOURCE/imagesTr, labelsTr  scans and their label maps, of the same name; a scan is one file of all its channels, or
                           one file per channel: NAME_0000, NAME_0001 and so on, of which some may be missing
SOURCE/imagesTs            further scans, labelled if there is a labelsTs
SOURCE/extra_unlabelled    further scans, and those in the folder that dataset.json calls "unlabelled_folder"
SOURCE/splits.json         lists of case names: train, val, test, unlabelled; if missing, a split is drawn
```
A folder without dataset.json may hold scans at any depth, DICOM series too, all unlabelled, unless they lie in images/
with label maps of the same names in labels/ (or in imagesTr/ and labelsTr/).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import SourceError, nearest
from voxmim.scans.formats.dicom import find_series
from voxmim.scans.volume import SCAN_ENDINGS, case_name, is_scan
from voxmim.store import SPLITS

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))
_SHARES = {"val": 0.15, "test": 0.25}  # of the labelled cases; the rest trains
_Told = tuple[str, tuple[str, ...], dict[int, str], dict[str, tuple[int, ...]], list[str], str]
_CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class SourceCase:
    """One case on disk.

    Attributes:
        name: unique in the source.
        images: one file per channel that is there, or one file of all channels.
        label: the label map, if there is one.
        split: ``train``, ``val``, ``test`` or ``unlabelled``.
        missing: the index of each channel that the case lacks.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    split: str
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """A folder of scans.

    Attributes:
        path: the folder.
        name: of the data set.
        channels: the name of each channel.
        labels: name of each label value, background left out; empty where the source doesn't tell.
        cases: sorted by name.
        seed: of the split, where one was drawn.
        regions: name of each region to the label values it is the union of, in the source's order; regions may
            overlap. Empty where there are none.
        licence: what the data set says of its licence; empty where it says nothing.
        told: what was repaired or left out while looking for scans, a sentence each.
    """

    path: Path
    name: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[SourceCase, ...]
    seed: int = 0
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    licence: str = ""
    told: tuple[str, ...] = ()


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
    said: list[str] = []
    told: _Told = (path.name, ("image",), {}, {}, [], "")
    if (path / "dataset.json").is_file():
        told = _read_dataset(path / "dataset.json")
    name, channels, labels, regions, further, licence = told
    pair = next((pair for pair in _PAIRS if (path / pair[0]).is_dir()), None)
    if pair is not None:
        cases = _paired_cases(path, pair, "", len(channels))
        cases += _paired_cases(path, ("imagesTs", "labelsTs"), "unlabelled", len(channels))
        for folder in dict.fromkeys([*further, "extra_unlabelled"]):
            cases += _paired_cases(path, (folder, ""), "unlabelled", len(channels))
        cases = _with_unique_names(cases)
    else:
        cases, said = _any_scans(path)
    if not cases:
        more = f" ({said[0]})" if said else ""
        raise SourceError(
            f"{path}: there is no scan (DICOM, {', '.join(SCAN_ENDINGS)}) in this folder{more}; check the path."
        )
    twin, count = Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{path}: {count} scans have the same name {twin}; rename or remove one of them.")
    if (path / "splits.json").is_file():
        cases = _follow_splits(path / "splits.json", cases)
    else:
        cases = _draw_split(cases, seed)
    cases = sorted(cases, key=lambda case: case.name)
    return Source(path, name, channels, labels, tuple(cases), seed, regions, licence, tuple(said))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(), object_pairs_hook=_with_unique_keys)
    except (ValueError, OSError) as error:
        raise SourceError(f"{file}: this is not valid JSON ({error}); repair the file.") from None
    if not isinstance(values, dict):
        raise SourceError(
            f"{file}: a JSON object is expected, but it holds a {type(values).__name__}; repair the file."
        )
    return values


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys Python would otherwise let overwrite each other without a word."""
    key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if count > 1:
        raise ValueError(f"the key '{key}' stands {count} times in one object")
    return dict(pairs)


def _read_dataset(file: Path) -> _Told:
    """The data set's name, its channels, its labels, its regions, its folder of unlabelled scans, and its licence."""
    values = _read_json(file)
    channels = values.get("channel_names", values.get("modality"))
    if not isinstance(channels, Mapping) or not channels:
        raise SourceError(f'{file}: the key "channel_names" is missing; add for instance {{"0": "CT"}}.')
    if not isinstance(values.get("labels"), Mapping):
        raise SourceError(f'{file}: the key "labels" is missing; add for instance {{"background": 0, "liver": 1}}.')
    try:
        ordered = tuple(str(channels[key]) for key in sorted(channels, key=int))
        pairs = [(int(a), str(b)) if str(a).isdigit() else (int(b), str(a)) for a, b in values["labels"].items()]
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{file}: channels or labels are not numbered by whole numbers ({error}); repair it."
        ) from None
    labels = {value: name for value, name in sorted(pairs) if value != 0}
    if len({value for value, _ in pairs}) < len(pairs) or any(not 0 <= value <= 255 for value, _ in pairs):
        raise SourceError(f"{file}: label values must be different whole numbers from 0 to 255; repair the file.")
    further = [str(values["unlabelled_folder"])] if values.get("unlabelled_folder") else []
    missing = [folder for folder in further if not (file.parent / folder).is_dir()]
    if missing:
        raise SourceError(f"{file}: it names the folder {missing[0]}, which is missing; add it or remove the key.")
    if not (file.parent / "imagesTr").is_dir():
        raise SourceError(f"{file.parent}: there is a dataset.json but no folder imagesTr; put the scans there.")
    return (
        str(values.get("name") or file.parent.name),
        ordered,
        labels,
        _read_regions(file, values.get("regions", {}), labels),
        further,
        str(values.get("licence") or values.get("license") or ""),
    )


def _read_regions(file: Path, told: object, labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """The regions that dataset.json names, in its order; their values must be those of labels."""
    if not isinstance(told, Mapping):
        raise SourceError(f'{file}: "regions" must map names to label values; write for instance {{"WT": [1, 2]}}.')
    for name, values in told.items():
        if not isinstance(values, list) or not values:
            raise SourceError(f"{file}: region '{name}' must be a list of one label value or more; repair the file.")
        strange = [value for value in values if type(value) is not int or value not in labels]
        if strange:
            known = ", ".join(f"{value} {label}" for value, label in labels.items())
            raise SourceError(f"{file}: region '{name}' lists {strange[0]!r}, but the labels are {known}; correct it.")
        if len(set(values)) < len(values):
            raise SourceError(f"{file}: region '{name}' lists a label value twice; leave it in once.")
    return {name: tuple(values) for name, values in told.items()}


def _paired_cases(path: Path, pair: tuple[str, str], split: str, channels: int) -> list[SourceCase]:
    """The cases of one folder of scans and its folder of label maps (which may be missing)."""
    folder, label_folder = path / pair[0], path / pair[1]
    files = _scans_in(folder) if folder.is_dir() else []
    labels = {case_name(file): file for file in _scans_in(label_folder)} if pair[1] and label_folder.is_dir() else {}
    grouped: dict[str, list[Path]] = {}
    for file in files:
        grouped.setdefault(_without_channel(case_name(file), labels, channels), []).append(file)
    lonely = sorted(set(labels) - set(grouped))
    if lonely:
        raise SourceError(f"{labels[lonely[0]]}: this label map has no scan in {pair[0]}; add the scan or remove it.")
    cases = []
    for name, images in grouped.items():
        missing = _missing_channels(name, images, channels)
        if missing is None:
            listed = ", ".join(file.name for file in images)
            raise SourceError(
                f"{folder}: case {name} has {len(images)} files ({listed}) for {channels} channel(s); "
                f"name them {name}_0000, {name}_0001 and so on, by the number of their channel."
            )
        cases.append(SourceCase(name, tuple(images), labels.get(name), split, missing))
    return cases


def _missing_channels(name: str, images: Sequence[Path], channels: int) -> tuple[int, ...] | None:
    """The channels for which a case has no file; None where it cannot be told which file is which channel."""
    names = {case_name(image) for image in images}
    if names == {name} and len(images) == 1:
        return ()  # one file of all channels
    numbers = {int(match[2]) for own in names if (match := _CHANNEL_SUFFIX.fullmatch(own)) and match[1] == name}
    if len(names) < len(images) or len(images) not in (len(numbers), channels):
        return None
    return tuple(channel for channel in range(channels) if channel not in numbers) if len(images) < channels else ()


def channel_files(files: Sequence[Path], channels: int) -> dict[str, tuple[Path, ...]]:
    """The files of each scan by the scan's name: one of all channels, or one per channel, numbered as in a source.

    Raises:
        SourceError: of a scan in several files, some channels are missing.
    """
    grouped: dict[str, list[Path]] = {}
    for file in files:
        grouped.setdefault(_without_channel(case_name(file), {}, channels), []).append(file)
    for name, images in grouped.items():
        if len(images) not in (1, channels):
            listed = ", ".join(file.name for file in images)
            raise SourceError(
                f"{images[0].parent}: scan {name} has {len(images)} files ({listed}) for {channels} channels; add the "
                "others, or leave the scan out."
            )
    return {case_name(images[0]) if len(images) == 1 else name: tuple(images) for name, images in grouped.items()}


def _without_channel(name: str, labels: Mapping[str, Path], channels: int) -> str:
    """``case_0000`` as nnU-Net names channel 0 of ``case``, unless that is a case's own name."""
    match = _CHANNEL_SUFFIX.fullmatch(name)
    if match and name not in labels and int(match[2]) < channels and (channels > 1 or match[1] in labels):
        return match[1]
    return name


def _scans_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_scan(file))


def _any_scans(path: Path) -> tuple[list[SourceCase], list[str]]:
    """Every scan at any depth, but for hidden folders, and what there is to say of DICOM series.

    Scans of the same name get their folders' names before it.
    """
    files = [file for file in path.rglob("*") if is_scan(file) and not _is_hidden(file.relative_to(path))]
    series = find_series(path)
    files = sorted([*files, *(each.path for each in series if each.fault is None)])
    told = [f"{each.path}: {text}" for each in series for text in (*each.notes, each.fault) if text is not None]
    clashes = Counter(map(case_name, files))
    cases = []
    for file in files:
        short = case_name(file)
        folders = file.parent.relative_to(path).parts if clashes[short] > 1 else ()
        cases.append(SourceCase("-".join([*folders, short]), (file,), None, "unlabelled"))
    return cases, told


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _with_unique_names(cases: list[SourceCase]) -> list[SourceCase]:
    """Put the folder's name before a case's name if an earlier folder holds a case of that name."""
    named: dict[str, SourceCase] = {}
    for case in cases:
        name = f"{case.images[0].parent.name}-{case.name}" if case.name in named else case.name
        named[name] = replace(case, name=name)
    return list(named.values())


def _follow_splits(file: Path, cases: list[SourceCase]) -> list[SourceCase]:
    """The cases that splits.json lists.

    Unlisted scans of the unlabelled folders stay in, unless it lists unlabelled ones.
    """
    splits = _read_json(file)
    known = {case.name: case for case in cases}
    split_of: dict[str, str] = {}
    for split, names in splits.items():
        if split not in SPLITS:
            raise SourceError(f"{file}: '{split}' is no split ({', '.join(SPLITS)}){nearest(split, SPLITS) or '.'}")
        if not isinstance(names, list):
            raise SourceError(f"{file}: '{split}' must be a list of case names; repair the file.")
        for name in map(str, names):
            if name not in known:
                hint = nearest(name, known) or "; add the scan or take the name out."
                raise SourceError(f"{file}: there is no scan for case '{name}' of '{split}'{hint}")
            if name in split_of:
                raise SourceError(f"{file}: case '{name}' is listed twice; leave it in one split.")
            split_of[name] = split
    if "unlabelled" not in splits:
        for case in cases:
            if case.split == "unlabelled" and case.label is None:
                split_of.setdefault(case.name, "unlabelled")
    return [replace(case, split=split_of[case.name]) for case in cases if case.name in split_of]


def _draw_split(cases: list[SourceCase], seed: int) -> list[SourceCase]:
    """Draw train, val and test from the labelled cases; labelled scans of imagesTs, if any, are the test."""
    drawn = {case.name: "unlabelled" if case.label is None else "test" for case in cases}
    labelled = sorted(case.name for case in cases if case.label is not None and case.split == "")
    held_out = any(case.label is not None and case.split != "" for case in cases)
    order = [labelled[i] for i in np.random.default_rng(seed).permutation(len(labelled))]
    start = 0
    for split, share in _SHARES.items():
        some = len(order) >= 4 and not (split == "test" and held_out)
        count = max(1, round(share * len(order))) if some else 0
        drawn.update(dict.fromkeys(order[start : start + count], split))
        start += count
    drawn.update(dict.fromkeys(order[start:], "train"))
    return [replace(case, split=drawn[case.name]) for case in cases]

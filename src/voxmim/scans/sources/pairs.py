"""Scans in one folder and label maps of the same names in another.

```
SOURCE/imagesTr, labelsTr  a scan is one file of all its channels, or one file per channel: NAME_0000, NAME_0001 and so
                           on, of which some may be missing; images/ and labels/ do as well
SOURCE/imagesTs            further scans, labelled if there is a labelsTs
SOURCE/extra_unlabelled    further scans
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.scans.sources.numbered import by_case, missing_channels
from voxmim.scans.sources.source import SourceCase
from voxmim.scans.volume import case_name, is_scan

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))


def has_pairs(path: Path) -> bool:
    """Tell whether a folder holds one of scans that may have label maps beside it."""
    return any((path / images).is_dir() for images, _ in _PAIRS)


def paired_cases(path: Path, channels: int = 1, further: Sequence[str] = ()) -> list[SourceCase]:
    """The cases of all these folders, and of `further` ones without labels.

    Raises:
        SourceError: a label map has no scan, or it cannot be told which file is which channel.
    """
    pair = next(pair for pair in _PAIRS if (path / pair[0]).is_dir())
    cases = _cases_of(path, pair, ("", ""), channels)
    cases += _cases_of(path, ("imagesTs", "labelsTs"), ("test", "unlabelled"), channels)
    for folder in dict.fromkeys([*further, "extra_unlabelled"]):
        cases += _cases_of(path, (folder, ""), ("", "unlabelled"), channels)
    return _with_unique_names(cases)


def _cases_of(path: Path, pair: tuple[str, str], splits: tuple[str, str], channels: int) -> list[SourceCase]:
    """The cases of one folder of scans and its folder of label maps (which may be missing).

    `splits` are those of a case with a label map and of one without.
    """
    folder, label_folder = path / pair[0], path / pair[1]
    files = _scans_in(folder) if folder.is_dir() else []
    labels = {case_name(file): file for file in _scans_in(label_folder)} if pair[1] and label_folder.is_dir() else {}
    grouped = by_case(files, channels, labels)
    lonely = sorted(set(labels) - set(grouped))
    if lonely:
        raise SourceError(f"{labels[lonely[0]]}: this label map has no scan in {pair[0]}; add the scan or remove it.")
    cases = []
    for name, images in grouped.items():
        missing = missing_channels(name, images, channels)
        if missing is None:
            listed = ", ".join(file.name for file in images)
            raise SourceError(
                f"{folder}: case {name} has {len(images)} files ({listed}) for {channels} channel(s); "
                f"name them {name}_0000, {name}_0001 and so on, by the number of their channel."
            )
        cases.append(SourceCase(name, tuple(images), labels.get(name), splits[name not in labels], missing))
    return cases


def _scans_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_scan(file))


def _with_unique_names(cases: list[SourceCase]) -> list[SourceCase]:
    """Put the folder's name before a case's name if an earlier folder holds a case of that name."""
    named: dict[str, SourceCase] = {}
    for case in cases:
        name = f"{case.images[0].parent.name}-{case.name}" if case.name in named else case.name
        named[name] = replace(case, name=name)
    return list(named.values())

"""Scans in one folder and label maps of the same names in another.

```
SOURCE/imagesTr, labelsTr  a scan is one file of all channels, or one file per channel: NAME_0000, NAME_0001 and so on,
                           of which some may be missing; or a folder NAME with the DICOM slices of one series, or with a
                           file or folder for each channel, named after it. The folders may also be images/ and labels/
SOURCE/imagesTs            further scans, labelled if there is a labelsTs
SOURCE/extra_unlabelled    further scans
```
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxmim.findings import Finding
from voxmim.images.volume import case_name, is_scan
from voxmim.sources.listing import label_file, scans_in
from voxmim.sources.numbered import by_case, missing_channels
from voxmim.sources.source import SourceCase
from voxmim.text import counted

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))


def has_pairs(path: Path) -> bool:
    """Whether a folder has this layout."""
    return any((path / images).is_dir() for images, _ in _PAIRS)


def paired_cases(
    path: Path, channels: Sequence[str], further: Sequence[str] = (), numbered: bool = False
) -> tuple[list[SourceCase], list[Finding]]:
    """The cases of these folders below `path` and of `further` ones without labels, and findings on files left out.

    With `numbered`, all file names end with the number of a channel, even of a single one. Raises SourceError if one of
    the folders has DICOM slices.
    """
    pair = next(pair for pair in _PAIRS if (path / pair[0]).is_dir())
    folders = [(*pair, "", ""), ("imagesTs", "labelsTs", "test", "unlabelled")]
    folders += [(folder, "", "", "unlabelled") for folder in dict.fromkeys([*further, "extra_unlabelled"])]
    named: dict[str, SourceCase] = {}
    findings: list[Finding] = []
    for images, labels, *splits in folders:
        cases, more = _cases_of(path / images, path / labels if labels else None, channels, numbered)
        findings += more
        for case in cases:
            name = f"{(path / images).name}-{case.name}" if case.name in named else case.name
            named[name] = replace(case, name=name, split=splits[case.label is None])
    return list(named.values()), findings


def _cases_of(
    folder: Path, label_folder: Path | None, channels: Sequence[str], numbered: bool
) -> tuple[list[SourceCase], list[Finding]]:
    """The cases of one folder of scans and its folder of label maps; either may be missing."""
    scans, findings = scans_in(folder)
    labels, more = scans_in(label_folder) if label_folder else ({}, [])
    findings += more
    grouped = by_case(list(scans.values()), len(channels), labels, numbered)
    for name in sorted(set(labels) - set(grouped)):
        text = f"this label map has no scan {name} in {folder.name}; add the scan or rename it."
        findings.append(Finding.of(labels[name], "label", text))
    cases = []
    for name, images in grouped.items():
        inner = _in_its_folder(images, channels)
        images = list(inner.values()) or images
        missing = missing_channels(name, images, len(channels))
        if inner:
            missing = tuple(index for index in range(len(channels)) if index not in inner)
        if missing is None:
            listed = ", ".join(file.name for file in images)
            text = (
                f"case {name} has {counted(len(images), 'file')} ({listed}) for {counted(len(channels), 'channel')}; "
                f"name them {name}_0000, {name}_0001 and so on, by the number of their channel."
            )
            findings.append(Finding.of(images[0], "channels", text))
        else:
            label = label_file(labels[name]) if name in labels else None
            cases.append(SourceCase(name, tuple(images), label, missing=missing))
    return cases, findings


def _in_its_folder(images: Sequence[Path], channels: Sequence[str]) -> dict[int, Path]:
    """The files or folders named after channels in the folder of a case, by channel."""
    if len(images) > 1 or not images[0].is_dir():
        return {}
    scans = {case_name(path): path for path in images[0].iterdir() if path.is_dir() or is_scan(path)}
    return {index: scans[name] for index, name in enumerate(channels) if name in scans}

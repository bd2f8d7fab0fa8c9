"""Channels in numbered files: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from voxmim.images.volume import case_name
from voxmim.sources.listing import names_of

_CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")


def channel_files(files: Sequence[Path], channels: int, folder: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each scan by its name: one of all channels, or numbered ones of each channel.

    Scans of the same name in several folders are preceded by their folders below `folder`.
    """
    scans = [(name, part) for name, images in by_case(files, channels).items() for part in _apart(images)]
    names = names_of({part[0]: name if len(part) > 1 else case_name(part[0]) for name, part in scans}, folder)
    return {names[part[0]]: tuple(part) for _, part in scans}


def _apart(images: Sequence[Path]) -> list[Sequence[Path]]:
    """The files of each scan among those of one name; if two are of the same channel, each folder is a scan."""
    if len(set(map(case_name, images))) == len(images):
        return [images]
    folders = dict.fromkeys(image.parent for image in images)
    if len(folders) == 1:
        return [[image] for image in images]
    return [part for folder in folders for part in _apart([image for image in images if image.parent == folder])]


def by_case(
    files: Sequence[Path], channels: int, labelled: Collection[str] = (), always: bool = False
) -> dict[str, list[Path]]:
    """Group the files by case; a number at the end of a name is a channel if it is below `channels`.

    Names in `labelled`, those of label maps, are whole names of cases. With `always`, a number is a channel even if
    there is a single channel and no label map.
    """
    grouped: dict[str, list[Path]] = {}
    for file in files:
        name = case_name(file)
        match = None if name in labelled else _CHANNEL_SUFFIX.fullmatch(name)
        if match and int(match[2]) < channels and (always or channels > 1 or match[1] in labelled):
            name = match[1]
        grouped.setdefault(name, []).append(file)
    return grouped


def missing_channels(name: str, images: Sequence[Path], channels: int) -> tuple[int, ...] | None:
    """The channels for which a case has no file; None if the channels of its files cannot be determined."""
    names = {case_name(image) for image in images}
    if names == {name} and len(images) == 1:
        return ()  # one file of all channels
    numbers = {int(match[2]) for each in names if (match := _CHANNEL_SUFFIX.fullmatch(each)) and match[1] == name}
    if len(names) < len(images) or len(images) not in (len(numbers), channels):
        return None
    return tuple(channel for channel in range(channels) if channel not in numbers) if len(images) < channels else ()

"""Channels in files of their own, distinguished by a number: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.images.volume import case_name

_CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")


def channel_files(files: Sequence[Path], channels: int) -> dict[str, tuple[Path, ...]]:
    """The files of each scan by the scan's name: one of all channels, or one per channel, numbered as in a source.

    Raises SourceError where some channels of a scan in several files are missing.
    """
    grouped = by_case(files, channels)
    for name, images in grouped.items():
        if len(images) not in (1, channels):
            listed = ", ".join(file.name for file in images)
            raise SourceError(
                f"{images[0].parent}: scan {name} has {len(images)} files ({listed}) for {channels} channels; add the "
                "others, or leave the scan out."
            )
    return {case_name(images[0]) if len(images) == 1 else name: tuple(images) for name, images in grouped.items()}


def by_case(
    files: Sequence[Path], channels: int, labelled: Collection[str] = (), always: bool = False
) -> dict[str, list[Path]]:
    """The files of each case, by the case's name; no number of `channels` or more is taken for that of a channel.

    Names in `labelled`, those of label maps, are never taken apart. With `always`, four digits at the end are a channel
    even if it is the only one and there is no label map.
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
    """The channels for which a case has no file; None where nothing says which file is which channel."""
    names = {case_name(image) for image in images}
    if names == {name} and len(images) == 1:
        return ()  # one file of all channels
    numbers = {int(match[2]) for own in names if (match := _CHANNEL_SUFFIX.fullmatch(own)) and match[1] == name}
    if len(names) < len(images) or len(images) not in (len(numbers), channels):
        return None
    return tuple(channel for channel in range(channels) if channel not in numbers) if len(images) < channels else ()

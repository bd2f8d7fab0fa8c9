"""What a dataset.json says of a data set: its name, channels, labels, regions and licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from voxmim.errors import SourceError


class Description(NamedTuple):
    """What is told of a data set; the fields are those of `Source`."""

    name: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    regions: dict[str, tuple[int, ...]]
    licence: str


def describe(file: Path, values: Mapping[str, Any]) -> Description:
    """Understand the object that a file holds.

    Raises:
        SourceError: it has no channels or labels, or contradicts itself.
    """
    channels = values.get("channel_names", values.get("modality"))
    if not isinstance(channels, Mapping) or not channels:
        raise SourceError(f'{file}: the key "channel_names" is missing; add for instance {{"0": "CT"}}.')
    if not isinstance(values.get("labels"), Mapping):
        raise SourceError(f'{file}: the key "labels" is missing; add for instance {{"background": 0, "liver": 1}}.')
    try:
        ordered = tuple(str(channels[key]) for key in sorted(channels, key=int))
        pairs = [(int(a), str(b)) if a.isdigit() else (_whole(b), a) for a, b in values["labels"].items()]
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{file}: channels or labels are not numbered by whole numbers ({error}); repair it."
        ) from None
    labels = {value: name for value, name in sorted(pairs) if value != 0}
    if len({value for value, _ in pairs}) < len(pairs) or any(not 0 <= value <= 255 for value, _ in pairs):
        raise SourceError(f"{file}: label values must be different whole numbers from 0 to 255; repair the file.")
    regions = _read_regions(file, values.get("regions", {}), labels)
    licence = str(values.get("licence") or values.get("license") or "")
    return Description(str(values.get("name") or file.parent.name), ordered, labels, regions, licence)


def _whole(value: object) -> int:
    if type(value) is int or isinstance(value, str):
        return int(value)
    raise ValueError(f"{value!r} is none")


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

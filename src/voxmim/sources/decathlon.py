"""A folder as the Medical Segmentation Decathlon lays it out: pairs of folders, and a dataset.json that tells of them.

```
SOURCE/dataset.json        name, channel_names (or modality), labels, regions (label values that count together),
                           licence, unlabelled_folder
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError
from voxmim.sources.description import Description, describe
from voxmim.sources.pairs import paired_cases
from voxmim.sources.source import Source


def decathlon(path: Path, values: Mapping[str, Any]) -> Source:
    """The cases of such a folder; `values` are those of its dataset.json.

    Raises:
        SourceError: dataset.json contradicts itself or the folder.
    """
    return described_pairs(path, values, describe(path / "dataset.json", values))


def described_pairs(path: Path, values: Mapping[str, Any], told: Description, numbered: bool = False) -> Source:
    """The cases of a folder whose dataset.json holds `values`, understood as `told`; `numbered` as in `paired_cases`.

    Raises:
        SourceError: the folder isn't as dataset.json tells.
    """
    further = [str(values["unlabelled_folder"])] if values.get("unlabelled_folder") else []
    missing = [folder for folder in further if not (path / folder).is_dir()]
    if missing:
        raise SourceError(
            f"{path / 'dataset.json'}: it names the folder {missing[0]}, which is missing; add it or remove the key."
        )
    if not (path / "imagesTr").is_dir():
        raise SourceError(f"{path}: there is a dataset.json but no folder imagesTr; put the scans there.")
    cases = tuple(paired_cases(path, told.channels, further, numbered))
    return Source(path, told.name, told.channels, told.labels, cases, regions=told.regions, licence=told.licence)

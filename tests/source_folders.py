"""Folders and lists of scans for the tests of sources; the scans are empty files, since they are not read."""

from __future__ import annotations

import json
from pathlib import Path

from voxmim.sources import Source

DATASET = {"name": "liver", "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}


def fill(path: Path, *files: str, **written: object) -> Path:
    """Write empty scans (no scan is read) and JSON files, ``dataset=...`` for dataset.json."""
    path.mkdir(parents=True, exist_ok=True)
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    for name, content in written.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pairs(count: int) -> list[str]:
    return [f"{folder}/a{i:03}.nii.gz" for i in range(count) for folder in ("imagesTr", "labelsTr")]


def splits_of(source: Source) -> dict[str, str]:
    return {case.name: case.split for case in source.cases}

"""Which case trains, validates or tests: as splits.json says, or drawn by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from voxmim.errors import SourceError, nearest
from voxmim.scans.sources.jsons import read_json
from voxmim.scans.sources.source import SourceCase
from voxmim.store import SPLITS

_SHARES = {"val": 0.15, "test": 0.25}  # of the labelled cases; the rest trains


def follow_splits(file: Path, cases: Sequence[SourceCase]) -> list[SourceCase]:
    """The cases that splits.json lists.

    Unlisted scans of the unlabelled folders stay in, unless it lists unlabelled ones.

    Raises:
        SourceError: it names a case that is not there, a case twice, or a split that is none.
    """
    splits = read_json(file)
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


def draw_split(cases: Sequence[SourceCase], seed: int) -> list[SourceCase]:
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

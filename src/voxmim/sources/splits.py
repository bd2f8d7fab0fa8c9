"""Splits of cases for training, validation and testing: from a file, or at random."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import SourceError, nearest
from voxmim.sources.jsons import read_json, read_object
from voxmim.sources.source import SPLITS, SourceCase
from voxmim.text import counted

SPLITS_FILES = ("splits.json", "splits_final.json")
FRACTIONS = {"val": 0.15, "test": 0.25}  # of the labelled cases; the rest trains
_STRICTEST = ("train", "val", "test")  # if a patient has several splits, scans without one join the last of these


def follow_splits(file: Path, cases: Sequence[SourceCase]) -> list[SourceCase]:
    """The cases listed in splits.json, or in the first fold of nnU-Net's splits_final.json, with their splits.

    Unlisted unlabelled cases stay, unless the file lists unlabelled ones. With splits_final.json, the labelled scans of
    imagesTs are the test cases. Raises SourceError as `split_of_each`.
    """
    splits = read_object(file) if file.name == SPLITS_FILES[0] else _first_fold(file, cases)
    split_of = split_of_each(file, splits, {case.name: case for case in cases})
    if "unlabelled" not in splits:
        for case in cases:
            if case.split == "unlabelled" and case.label is None:
                split_of.setdefault(case.name, "unlabelled")
    return [replace(case, split=split_of[case.name]) for case in cases if case.name in split_of]


def split_of_each(file: Path, splits: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """The split of each case in a file's lists by split.

    Raises SourceError for a case that is not in `names`, a case that is listed twice, or an unknown split.
    """
    split_of: dict[str, str] = {}
    for split, listed in splits.items():
        if split not in SPLITS:
            raise SourceError(f"{file}: '{split}' is no split ({', '.join(SPLITS)}){nearest(split, SPLITS) or '.'}")
        if not isinstance(listed, list):
            raise SourceError(f"{file}: '{split}' must be a list of case names; repair the file.")
        for name in map(str, listed):
            if name not in names:
                hint = nearest(name, names) or "; add the scan or take the name out."
                raise SourceError(f"{file}: there is no scan for case '{name}' of '{split}'{hint}")
            if name in split_of:
                raise SourceError(f"{file}: case '{name}' is listed twice; leave it in one split.")
            split_of[name] = split
    return split_of


def _first_fold(file: Path, cases: Sequence[SourceCase]) -> dict[str, Any]:
    folds = read_json(file)
    if not isinstance(folds, list) or not folds or not isinstance(folds[0], dict):
        raise SourceError(
            f'{file}: a list of folds is expected, each as {{"train": [...], "val": [...]}}; repair the file.'
        )
    return {**folds[0], "test": [case.name for case in cases if case.split == "test"]}


def draw_split(cases: Sequence[SourceCase], seed: int) -> list[SourceCase]:
    """Split the labelled cases at random into train, val and test, with each patient in one split.

    Cases that have a split keep it, and no cases are added to a val or test split that exists. Other scans of a patient
    join its split; unlabelled ones only join val and test, and else stay unlabelled.
    """
    given: dict[str, str] = {}
    for case in cases:
        if case.split in _STRICTEST:
            given[case.group] = strictest(case.split, given.get(case.group, ""))
    known = {case.split for case in cases if case.label is not None}
    fractions = {split: fraction for split, fraction in FRACTIONS.items() if split not in known}
    sizes = Counter(case.group for case in cases if case.label is not None and case.group not in given)
    drawn = {**given, **draw_parts(sizes, fractions, seed)}
    return [replace(case, split=case.split or along(case.label, drawn.get(case.group, ""))) for case in cases]


def draw_parts(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign groups at random to val and test (the keys of `fractions`), and the others to train.

    `sizes` has the number of cases of each group, `fractions` are of all cases. In a random order, each group joins the
    first part that it brings closer to its size. With four groups or more no part is empty; with fewer all train.
    Returns the part of each group.
    """
    names = sorted(sizes)
    if len(names) < 4:
        return dict.fromkeys(names, "train")
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    total = sum(sizes.values())
    missing = {part: max(1, round(fraction * total)) for part, fraction in fractions.items()}
    part_of: dict[str, str] = {}
    for name in order:
        size = sizes[name]
        part_of[name] = next((part for part, count in missing.items() if abs(count - size) < count), "train")
        if part_of[name] != "train":
            missing[part_of[name]] -= size
    for part in fractions:
        if part not in part_of.values():  # because of large groups: move the smallest group of the fullest part
            fullest = Counter(part_of[name] for name in order).most_common(1)[0][0]
            part_of[min((name for name in order if part_of[name] == fullest), key=sizes.__getitem__)] = part
    return part_of


def folded(cases: Sequence[Any], fold: str, seed: int, where: Path) -> list[Any]:
    """The cases with the splits of one fold of a cross-validation, in which patients of train and val form N parts.

    In the fold ``K/N`` part K, from 1, validates and the others train; test and unlabelled cases do not change. Raises
    SourceError, which begins with `where`, if `fold` is not valid or there are fewer patients than folds.
    """
    groups = sorted({case.group for case in cases if case.split in ("train", "val")})
    part, _, parts = fold.partition("/")
    number, count = (int(text) if text.isdecimal() else 0 for text in (part, parts))
    if not (1 <= number <= count and count >= 2):
        raise SourceError(f"--fold {fold}: give it as K/N, such as 1/5 for the first of five folds.")
    if len(groups) < count:
        raise SourceError(
            f"{where}: {counted(len(groups), 'patient')} in train and val cannot be dealt into {count} folds; give "
            "fewer, or draw a split with 'voxmim split'."
        )
    order = np.random.default_rng([seed, 17]).permutation(len(groups))
    held_out = {groups[i] for i in order[number - 1 :: count]}
    return [
        replace(case, split="val" if case.group in held_out else "train") if case.split in ("train", "val") else case
        for case in cases
    ]


def along(label: object, split: str) -> str:
    """The split of a case that joins its patient's split; a case without label only joins val and test."""
    return split if label is not None or split in FRACTIONS else "unlabelled"


def strictest(*splits: str) -> str:
    """The split that a patient's other scans join if the patient has several; empty if it has none."""
    return max((split for split in splits if split in _STRICTEST), key=_STRICTEST.index, default="")

"""The classes of scans: read from a table, matched with the cases of a store, divided by splits."""

import csv
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import SourceError, nearest

CASE, CLASS = "case", "class"  # the columns of the table
_FRACTIONS = {"test": 0.25, "val": 0.15}  # of a split that is drawn; the rest trains

Listed = dict[str, dict[str, Any]]
"""For each split, the class (or another target) of each of its cases."""


def read_classes(file: Path) -> dict[str, str]:
    """The class of each case that a CSV file lists in the columns ``case`` and ``class``.

    Raises:
        SourceError: as `read_column`, or there are fewer than two classes.
    """
    classes = read_column(file, CLASS)
    if len(set(classes.values())) < 2:
        found = ", ".join(set(classes.values())) or "none"
        raise SourceError(f"{file}: at least two classes are needed, but it knows {found}; add cases of another.")
    return classes


def read_column(file: Path, column: str) -> dict[str, str]:
    """What a column of a CSV file says of each case of its column ``case``; rows where it is empty are passed over.

    Raises:
        SourceError: the file is missing, no such table, or lists a case twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # with the mark that spreadsheets put first, or without
    except FileNotFoundError:
        raise SourceError(f"{file}: there is no such file; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: this is no readable text ({error}); save it as CSV in UTF-8.") from None
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    header = [name.strip() for name in rows.fieldnames or []]
    if any(header.count(each) != 1 for each in (CASE, column)):
        raise SourceError(
            f"{file}: its first line must name the columns {CASE} and {column}, parted by commas, but it is "
            f"'{(text.splitlines() or [''])[0][:60]}'; correct it."
        )
    rows.fieldnames = header
    found: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        case, value = (row[CASE] or "").strip(), (row[column] or "").strip()
        if not case:
            raise SourceError(f"{file}: line {rows.line_num} names no case; fill it in or remove the line.")
        if case in seen:
            raise SourceError(f"{file}: case '{case}' is listed twice; leave it in once.")
        seen.add(case)
        if value:
            found[case] = value
    return found


def match(
    classes: Mapping[str, Any], splits: Mapping[str, str], file: Path, data: Path, target: str = CLASS
) -> tuple[Listed, list[str]]:
    """Match the classes (or another `target`) that a table lists with the cases in `data`, given by their splits.

    Returns:
        the class of each case by split (``train``, ``val``, ``test``, ``unlabelled``), and a sentence on
        each kind of case that takes no part.

    Raises:
        SourceError: none of the listed cases is there.
    """
    listed: Listed = {}
    for case, split in splits.items():
        if case in classes:
            listed.setdefault(split, {})[case] = classes[case]
    if not listed:
        first = next(iter(classes))
        hint = nearest(first, splits) or f"; name them as there, such as '{next(iter(splits))}'."
        raise SourceError(f"{file}: none of its cases is in {data}, not '{first}'{hint}")
    notes = []
    for cases, what in (
        ([case for case in classes if case not in splits], f"listed in {file} but not in {data}"),
        ([case for case in splits if case not in classes], f"in {data} without a {target} in {file}"),
    ):
        if cases:
            notes.append(f"{_some(cases)} {what}: left out.")
    return listed, notes


def draw_splits(classes: Mapping[str, str], seed: int) -> dict[str, str]:
    """Draw the split of each case by seed: of each class a quarter for testing, 15 % for validation, the rest to train.

    Of three cases or more of a class, one at least goes into each split; of two, one trains and one tests.
    """
    drawn: dict[str, str] = {}
    for name in sorted(set(classes.values())):
        cases = _shuffled([case for case in classes if classes[case] == name], seed)
        for split, fraction in _FRACTIONS.items():
            count = max(1, round(fraction * sum(one == name for one in classes.values()))) if len(cases) > 1 else 0
            drawn.update(dict.fromkeys(cases[:count], split))
            cases = cases[count:]
        drawn.update(dict.fromkeys(cases, "train"))
    return {case: drawn[case] for case in classes}


def in_turn(classes: Mapping[str, str], seed: int) -> list[str]:
    """The cases in an order drawn by seed, the first n of which are a stratified draw of n with every class among them.

    So a smaller draw is a part of a larger one.
    """
    places: dict[str, float] = {}
    for name in sorted(set(classes.values())):
        cases = _shuffled([case for case in classes if classes[case] == name], seed)
        for rank, case in enumerate(cases):
            places[case] = (rank + 0.5) / len(cases) if rank else 0.0
    return sorted(places, key=lambda case: places[case])


def counts_in_words(cases: Collection[str]) -> str:
    """How many cases there are of each class, such as ``12 healthy, 9 sick``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(cases).items()))


def _shuffled(cases: list[str], seed: int) -> list[str]:
    ordered = sorted(cases)
    return [ordered[i] for i in np.random.default_rng([seed, 13]).permutation(len(ordered))]


def _some(cases: list[str]) -> str:
    names = f"{', '.join(cases[:3])}{', ...' if len(cases) > 3 else ''}"
    return f"{len(cases)} case{'s' if len(cases) > 1 else ''} ({names})"

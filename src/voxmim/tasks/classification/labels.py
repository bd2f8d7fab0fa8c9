"""The classes of scans: reading them from a table, matching them with cases, splitting them."""

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import SourceError, nearest
from voxmim.text import counted

CASE, CLASS = "case", "class"  # the columns of the table
_FRACTIONS = {"test": 0.25, "val": 0.15}  # of a split that is drawn; the rest trains

Listed = dict[str, dict[str, Any]]
"""The class (or another target) of each case, by split and case name."""


def read_classes(file: Path) -> dict[str, str]:
    """Read the class of each case from the columns ``case`` and ``class`` of a CSV file.

    Raises:
        SourceError: as `read_column`, or there are fewer than two classes.
    """
    classes = read_column(file, CLASS)
    if len(set(classes.values())) < 2:
        found = ", ".join(set(classes.values())) or "none"
        raise SourceError(f"{file}: at least two classes are needed, but it knows {found}; add cases of another.")
    return classes


def read_column(file: Path, column: str) -> dict[str, str]:
    """Read a column of a CSV file by case, as its column ``case`` names it; rows where the column is empty are skipped.

    Raises:
        SourceError: the file is missing, is no such table, or lists a case twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # with or without the byte order mark of spreadsheets
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
    values: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        case, value = (row[CASE] or "").strip(), (row[column] or "").strip()
        if not case:
            raise SourceError(f"{file}: line {rows.line_num} names no case; fill it in or remove the line.")
        if case in seen:
            raise SourceError(f"{file}: case '{case}' is listed twice; leave it in once.")
        seen.add(case)
        if value:
            values[case] = value
    return values


def match(
    classes: Mapping[str, Any], splits: Mapping[str, str], file: Path, data: Path, target: str = CLASS
) -> tuple[Listed, list[str]]:
    """Match the classes (or other targets) in a table with the cases in `data`.

    Args:
        classes: the class of each case in the table.
        splits: the split of each case in the data.
        file: the table, for messages.
        data: the data, for messages.
        target: what a class is called in messages.

    Returns:
        the class of each case by split (``train``, ``val``, ``test``, ``unlabelled``), and sentences on the cases that
        are left out.

    Raises:
        SourceError: the table and the data have no case in common.
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
    """A random split of each case, stratified by class: a quarter for testing, 15 % for validation, the rest to train.

    A class of three or more cases has at least one in each split; of a class of two, one trains and one tests.
    """
    drawn: dict[str, str] = {}
    for cases in _shuffled_classes(classes, seed):
        total = len(cases)
        for split, fraction in _FRACTIONS.items():
            count = max(1, round(fraction * total)) if len(cases) > 1 else 0
            drawn.update(dict.fromkeys(cases[:count], split))
            cases = cases[count:]
        drawn.update(dict.fromkeys(cases, "train"))
    return {case: drawn[case] for case in classes}


def stratified_order(classes: Mapping[str, str], seed: int) -> list[str]:
    """The cases in a random order, of which the first n are a stratified sample that has every class."""
    position: dict[str, float] = {}
    for cases in _shuffled_classes(classes, seed):
        for rank, case in enumerate(cases):
            position[case] = (rank + 0.5) / len(cases) if rank else 0.0
    return sorted(position, key=position.__getitem__)


def counts_in_words(classes: Collection[str]) -> str:
    """The number of cases of each class, such as ``12 healthy, 9 sick``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(classes).items()))


def _shuffled_classes(classes: Mapping[str, str], seed: int) -> Iterator[list[str]]:
    for name in sorted(set(classes.values())):
        cases = sorted(case for case in classes if classes[case] == name)
        yield [cases[i] for i in np.random.default_rng([seed, 13]).permutation(len(cases))]


def _some(cases: list[str]) -> str:
    names = f"{', '.join(cases[:3])}{', ...' if len(cases) > 3 else ''}"
    return f"{counted(len(cases), 'case')} ({names})"

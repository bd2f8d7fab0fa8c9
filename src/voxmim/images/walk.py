"""The files in a folder and its subfolders."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones; links are followed, but each folder only once."""
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        unseen = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                unseen.append(name)
        folders[:] = unseen
        for name in sorted(names):
            file = Path(parent, name)
            if not name.startswith(".") and file.is_file():
                yield file


def has_utf8_name(path: Path) -> bool:
    """Whether a path is valid UTF-8, as stores, pages and consoles need it."""
    return printable(path) == str(path)


def printable(path: Path) -> str:
    """The path, with bytes that are not UTF-8 escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()

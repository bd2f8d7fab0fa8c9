"""The files below a folder, as every listing of scans sees them."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, sorted, but for hidden files and folders; links are followed, each folder once."""
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        for name in sorted(names):
            file = Path(place, name)
            if not name.startswith(".") and file.is_file():
                yield file


def has_utf8_name(path: Path) -> bool:
    """Whether a path can be written down as text, as a store, a page and a console must."""
    return printable(path) == str(path)


def printable(path: Path) -> str:
    """The path, with escapes for what is not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()

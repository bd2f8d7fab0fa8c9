"""Files that appear whole or not at all, and folders that one process at a time writes into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; the file takes its place when the block ends without error.

    The folder is made where it is missing. Whatever stops the block, nothing half-written is left under `path`, and
    what was there before stays until the new file is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def alone(folder: Path, busy: Exception) -> Iterator[None]:
    """Be the one process that writes into a folder, which is made where it is missing; `busy` is raised if one is."""
    lock = FileLock(folder / ".lock", blocking=False)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise busy from None
    try:
        yield
    finally:
        lock.release()

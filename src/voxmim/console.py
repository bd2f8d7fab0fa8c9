"""Printing of the commands: tables, progress bars, results, errors."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Ranks of a process under torchrun, Lightning's launcher (whose nodes the user numbers) and SLURM. Only the first of
# several processes prints; errors are printed by all.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")

CONSOLE = Console(highlight=False, quiet=any(os.environ.get(name, "0") != "0" for name in _RANKS))
ERRORS = Console(stderr=True, highlight=False)


def escape_unencodable() -> None:
    """Print characters that are not in the console's encoding as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def warn(text: str) -> None:
    """Print a warning on stderr."""
    Console(stderr=True).print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def announce(command: str) -> None:
    """Print the command line of the next step."""
    CONSOLE.print(f"\n$ {command}", style="bold", markup=False, soft_wrap=True)


@contextmanager
def bar(title: str, of_bytes: bool = False, console: Console = CONSOLE) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with the time left; yields a function of the cases (or bytes) done and their total."""
    count = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=console.quiet
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda cases, total: progress.update(task, completed=cases, total=total)


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    shown = Table(title=plain(title), title_justify="left")
    for column in header:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(plain, row))
    CONSOLE.print(shown)


def agreed(terms: str, beforehand: bool) -> bool:
    """Show terms and ask for agreement, unless it was given `beforehand`; False without a terminal."""
    CONSOLE.print(plain(terms), soft_wrap=True)
    if beforehand or not sys.stdin.isatty():
        return beforehand
    try:
        return CONSOLE.input("Do you accept these terms? (y/n) ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def fail(text: str) -> NoReturn:
    """Print an error and exit with status 2."""
    ERRORS.print(f"[red]error:[/red] {plain(text)}", soft_wrap=True)
    sys.exit(2)


def done(path: Path, what: str) -> None:
    """Print where the result of a command is."""
    CONSOLE.print(f"[green]done:[/green] {plain(what)}: {plain(str(path))}", soft_wrap=True)


def plain(text: str) -> str:
    """Escape square brackets, which rich would read as styles."""
    return text.replace("[", "\\[")

"""The progress of a training: a bar on a terminal, plain lines in a file or pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from voxmim.console import CONSOLE

_FIGURES = ("loss", "val_loss", "val_dice", "val_auroc")
_SECONDS, _FRACTION = 30.0, 0.01  # of the steps between two lines, whichever is reached first
_FIRST = (1, 2, 5, 10, 20, 50)  # steps since the start or the resume that also get a line
_LOG_EVERY: ContextVar[int] = ContextVar("log_every", default=0)


@contextmanager
def progress_options(quiet: bool, log_every: int) -> Iterator[None]:
    """Make trainings in this block print nothing, or a line every `log_every` steps (0: by time)."""
    was_quiet, token = CONSOLE.quiet, _LOG_EVERY.set(log_every)
    CONSOLE.quiet = was_quiet or quiet
    try:
        yield
    finally:
        CONSOLE.quiet = was_quiet
        _LOG_EVERY.reset(token)


class TrainingProgress:
    """Progress of a training that resumes after `first` steps, with the latest figures and the time left.

    It is `visible` in the first process only.
    """

    def __init__(self, title: str, first: int, steps: int, visible: bool) -> None:
        self._title, self._first, self._steps = title, first, steps
        self._visible, self._every = visible, _LOG_EVERY.get()
        self._lines = visible and (self._every > 0 or not CONSOLE.is_terminal)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=CONSOLE,
            disable=not visible or self._lines,
        )
        self._task = self._bar.add_task(title, completed=first, total=steps, figures="")
        self._newest: dict[str, float] = {}
        self._warned = False
        self._started = self._last = time.monotonic()
        self._last_step = first

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def warn(self, text: str) -> None:
        """Print a warning, only once and in the first process."""
        if text and not self._warned and self._visible:
            self.say(text)
            self._warned = True

    def say(self, text: str) -> None:
        CONSOLE.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def update(self, row: dict[str, Any]) -> None:
        self._newest |= {key: row[key] for key in _FIGURES if key in row}
        figures = "  ".join(f"{key} {value:.4f}" for key, value in self._newest.items())
        if self._lines and self._due(row):
            text = f"{self._title}: step {row['step']}/{self._steps}  {figures}  {self._left(row)}"
            CONSOLE.print(text, markup=False, soft_wrap=True)
            self._last, self._last_step = time.monotonic(), row["step"]
        self._bar.update(self._task, completed=row["step"], figures=figures)

    def _due(self, row: dict[str, Any]) -> bool:
        """Whether a step gets a line: the first few, validations, the last, and at regular intervals."""
        step = row["step"]
        if step == self._steps or any(key.startswith("val_") for key in row):
            return True
        if self._every:
            return step % self._every == 0
        seconds = time.monotonic() - self._last
        fraction = (step - self._last_step) / self._steps
        return step - self._first in _FIRST or seconds >= _SECONDS or (fraction >= _FRACTION and seconds >= 1)

    def _left(self, row: dict[str, Any]) -> str:
        done, seconds = max(1, row["step"] - self._first), time.monotonic() - self._started
        minutes, seconds = divmod(round(seconds / done * (self._steps - row["step"])), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"

"""The progress bar of a training."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_FIGURES = ("loss", "val_loss", "val_dice", "val_auroc")


class TrainingBar:
    """A progress bar with the time left and the newest figures.

    Args:
        title: in front of it.
        first: steps done already.
        steps: of the training.
        visible: False on all processes but the first.
    """

    def __init__(self, title: str, first: int, steps: int, visible: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            disable=not visible,
        )
        self._task = self._bar.add_task(title, completed=first, total=steps, figures="")
        self._newest: dict[str, float] = {}
        self._warned = False

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def warn(self, text: str) -> None:
        """Print a warning above the bar, the first time; only the first process does."""
        if text and not self._warned and not self._bar.disable:
            self.say(text)
            self._warned = True

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def update(self, row: dict[str, Any]) -> None:
        """Move the bar, with the newest figures."""
        self._newest |= {key: row[key] for key in _FIGURES if key in row}
        figures = "  ".join(f"{key} {value:.4f}" for key, value in self._newest.items())
        self._bar.update(self._task, completed=row["step"], figures=figures)

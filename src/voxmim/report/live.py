"""The page and the loggers of a run while it trains."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from voxmim.errors import VoxmimError
from voxmim.training.loggers import Loggers
from voxmim.training.run import Run


class Watcher:
    """Called after each row of metrics.csv, and `finish` after the last; as a context manager it closes the loggers.

    The page of a running training is written at validations, but takes at most a fiftieth of the time, and when the run
    is stopped. `log` are names of `LOGGERS`; raises MissingPackageError if one of them is not installed.
    """

    def __init__(self, log: Sequence[str] = ()) -> None:
        self._loggers, self._next_at = Loggers(log), 0.0
        self._run: Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._run is not None and kind is not None and issubclass(kind, (VoxmimError, KeyboardInterrupt)):
            with suppress(OSError, VoxmimError):  # the first error says what is wrong
                self.finish(self._run)
        self._loggers.close("success" if kind is None else "failed")

    def __call__(self, run: Run, row: Mapping[str, float], validated: bool) -> None:
        """Log a row, and write the page if it is `validated` and not the last."""
        self._run = run
        self._loggers.add(run, row)
        began = time.monotonic()
        if validated and began >= self._next_at:
            self._write(run, int(row["step"]), running=True)
            self._next_at = time.monotonic() + 50 * (time.monotonic() - began)

    def finish(self, run: Run) -> None:
        """Write the page of a run that is done or stopped."""
        rows = run.metrics()
        self._write(run, int(rows[-1]["step"]) if rows else 0, running=False)

    def _write(self, run: Run, step: int, running: bool) -> None:
        from voxmim.report.run_page import write_run_page  # slow, and not needed before the first step

        page = write_run_page(run, running)
        self._loggers.pictures(step, [(picture.title, picture.png) for picture in page.pictures])

"""Run a voxmim command like ``python -m voxmim``, and print how long its parts took.

    python -m benchmarks.timeline START pretrain STORE OUT ...

START is `time.time()` when the process was started. The last line of the output is JSON, in seconds: `first_step`
(time until its end), `steps` (forward, backward and optimiser), `waiting` for crops, and `page` (writing the report).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = {"first_step": 0.0, "steps": 0.0, "waiting": 0.0, "page": 0.0}


def timed(function: Callable[..., Any], name: str, process_start: float) -> Callable[..., Any]:
    """Wrap a function so that its time is added to SECONDS."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.time()
        try:
            return function(*arguments, **options)
        finally:
            SECONDS[name] += time.time() - start
            if name == "steps" and not SECONDS["first_step"]:
                SECONDS["first_step"] = time.time() - process_start
                time_report(process_start)

    return call


def time_report(process_start: float) -> None:
    """Time the report too; its module is imported only after the first step, to keep the startup time unchanged."""
    from voxmim.report import run_page

    run_page.write_run_page = timed(run_page.write_run_page, "page", process_start)


def timed_batches(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wrap a stream of batches so that the time waiting for them is added to SECONDS."""

    def stream(*arguments: Any, **options: Any) -> Iterator[Any]:
        iterator = batches(*arguments, **options)
        while True:
            start = time.time()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            SECONDS["waiting"] += time.time() - start
            yield batch

    return stream


def main() -> None:
    """Wrap the functions that a training calls, run the command and print the times."""
    process_start = float(sys.argv[1])
    from voxmim import cli  # first, because it sets environment variables that torch reads
    from voxmim.training import loop, setup

    loop._step = timed(loop._step, "steps", process_start)
    setup.batches = timed_batches(setup.batches)
    try:
        cli.main(sys.argv[2:])
    finally:
        print(json.dumps(SECONDS))


if __name__ == "__main__":
    main()

"""Runs a voxmim command as ``python -m voxmim`` does, and prints when its parts began and how long they took.

    python -m benchmarks.timeline BEGAN pretrain STORE OUT ...

BEGAN is the clock (`time.time`) when the process was started. The last line of the output is JSON: `first_step`
(seconds until its end), `steps` (forward, backward and optimiser), `waiting` for crops, and `page`, all in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SPENT = {"first_step": 0.0, "steps": 0.0, "waiting": 0.0, "page": 0.0}


def timed(function: Callable[..., Any], name: str, began: float) -> Callable[..., Any]:
    """The function, its time added up."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.time()
        try:
            return function(*arguments, **options)
        finally:
            SPENT[name] += time.time() - start
            if name == "steps" and not SPENT["first_step"]:
                SPENT["first_step"] = time.time() - began
                time_pages(began)

    return call


def time_pages(began: float) -> None:
    """Time the pages too, whose module a training imports after its first step."""
    from voxmim.report import run_page

    run_page.write_run_page = timed(run_page.write_run_page, "page", began)


def waited(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The stream of batches, with the time that each one was waited for."""

    def stream(*arguments: Any, **options: Any) -> Iterator[Any]:
        found = batches(*arguments, **options)
        while True:
            start = time.time()
            try:
                batch = next(found)
            except StopIteration:
                return
            SPENT["waiting"] += time.time() - start
            yield batch

    return stream


def main() -> None:
    """Wrap what the trainings call, run the command, print."""
    began = float(sys.argv[1])
    from voxmim import cli  # sets what torch reads when it is imported
    from voxmim.training import loop, setup

    loop._step = timed(loop._step, "steps", began)
    setup.batches = waited(setup.batches)
    try:
        cli.main(sys.argv[2:])
    finally:
        print(json.dumps(SPENT))


if __name__ == "__main__":
    main()

"""Tasks for worker processes, in a module that they import faster than pytest."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy
import SimpleITK as sitk

from voxmim.errors import StoreError


def square(number: int) -> tuple[int, int]:
    return number, number**2


def record_start(number: int, folder: Path, pause: float = 0.0) -> int:
    """Record the process that started this task, then finish it."""
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(pause)
    return number


def threads(_: int) -> tuple[str | None, int]:
    return os.environ.get("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()


def new_pages(mebibytes: int) -> float:
    """The fraction of new pages that the system provides for temporary arrays of this size."""
    numpy.ones(mebibytes * 2**17)  # all pages are new at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        numpy.ones(mebibytes * 2**17)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (20 * mebibytes * 2**20 / 4096)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_three(number: int) -> int:
    if number == 3:
        die(number)
    return number


def refuse(number: int) -> int:
    if number == 1:
        raise StoreError("no room")
    time.sleep(0.05)
    return number

"""Many tasks, one function: in this process, in several of this machine, or in those of a Dask cluster.

Whatever computes them, results come as they are ready, each once, and to stop asking for them (an interrupt, an error)
takes back what is still queued.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from typing import TypeVar

from voxmim.errors import WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
_ANSWER_S = 10  # how long a cluster may take to answer
_THREADS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MIB = 2**20


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int | None = None,
    scheduler: str | None = None,
) -> Generator[Result, None, None]:
    """Call `function` with each task and yield each result as it comes; an error that it raises ends the work.

    Args:
        function: of a module that the workers can import (or a `functools.partial` of one).
        tasks: one argument each; what they hold travels to the workers.
        workers: processes on this machine; None takes one per CPU core, 1 stays in this process. Several processes
            compute with one thread each, unless the environment sets OMP_NUM_THREADS.
        scheduler: address of a Dask scheduler, whose workers take the place of processes on this machine. What a
            worker had in work when it died is done again by another.

    Raises:
        WorkerError: a process died, the cluster doesn't answer, or `distributed` is not installed.
    """
    if scheduler is not None:
        if workers is not None:
            raise WorkerError(f"the cluster at {scheduler} has workers of its own; leave out the number of workers.")
        return _on_cluster(function, tasks, scheduler)
    workers = min(cores() if workers is None else workers, len(tasks))
    return _in_processes(function, tasks, workers) if workers > 1 else (function(task) for task in tasks)


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[Result, None, None]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process died, perhaps for want of memory; run again with fewer workers "
            "(in a script, under 'if __name__ == \"__main__\":')."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new process of this machine: an interrupt is the parent's to handle, and the parent's end is its own."""
    _one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _one_thread() -> None:
    """Read by the libraries when they first compute, so that processes side by side don't fight for the cores."""
    for name in _THREADS:
        os.environ.setdefault(name, "1")


def _on_cluster(
    function: Callable[[Task], Result], tasks: Sequence[Task], scheduler: str
) -> Generator[Result, None, None]:
    try:
        import distributed
    except ImportError:
        raise WorkerError("a cluster needs the package 'distributed'; pip install 'voxmim[cluster]'.") from None
    try:
        client = distributed.Client(scheduler, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise WorkerError(
            f"{scheduler}: no Dask scheduler answers there ({error}); check the address, or start one."
        ) from None
    with client:  # whose end takes back what is not yet done
        try:
            futures = client.map(partial(_alone, function), tasks, pure=False)
            for future in distributed.as_completed(futures, loop=client.loop):
                yield future.result()
        except distributed.KilledWorker as error:
            raise WorkerError(
                f"{scheduler}: a task was tried on several workers and each died ({error}); give them more memory."
            ) from None
        except (CancelledError, distributed.comm.CommClosedError) as error:
            raise WorkerError(f"{scheduler}: the scheduler went away ({error}); start it and run again.") from None
        except ModuleNotFoundError as error:
            raise WorkerError(f"{scheduler}: its workers lack a package ({error}); install voxmim there.") from None


def _alone(function: Callable[[Task], Result], task: Task) -> Result:
    """One task on a worker of a cluster, which may run several on one machine."""
    _one_thread()
    _reuse_memory()
    return function(task)


def _reuse_memory() -> None:
    """Give glibc its own thresholds back, the highest that it finds by itself.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_, which also ends glibc's search for a good threshold of mmap: each
    array of more than 128 KiB then gets new pages from the system, and a training of small crops takes twice as long.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" in os.environ:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
            libc.mallopt(_TRIM_THRESHOLD, 64 * _MIB)

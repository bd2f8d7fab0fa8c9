"""Mapping a function over tasks: in this process, in several processes of this machine, or on a Dask cluster.

Results are yielded as they are ready. Closing the generator, or an error, cancels the tasks that are still queued.
"""

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
OnDeath = Callable[[Task], Result] | None
_CONNECT_TIMEOUT_S = 10
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int | None = None,
    scheduler: str | None = None,
    on_death: OnDeath[Task, Result] = None,
) -> Generator[Result, None, None]:
    """Call `function` with each task and yield the results as they are ready; its errors are raised.

    Args:
        function: of a module that the workers can import (or a `functools.partial` of one).
        tasks: arguments that can be pickled.
        workers: processes on this machine; None is one per CPU core, 1 is this process. Several processes use one
            thread each, unless the environment sets OMP_NUM_THREADS.
        scheduler: address of a Dask scheduler, whose workers are used instead of processes on this machine. It repeats
            the tasks of a worker that died.
        on_death: returns the result of a task that killed its process (out of memory, a crash in a library); with None
            that is an error.

    Raises:
        WorkerError: a process died, the cluster does not answer, or `distributed` is not installed.
    """
    if scheduler is not None:
        if workers is not None:
            raise WorkerError(f"the cluster at {scheduler} has workers of its own; leave out the number of workers.")
        return _on_cluster(function, tasks, scheduler, on_death)
    workers = min(cores() if workers is None else workers, len(tasks))
    return _in_processes(function, tasks, workers, on_death) if workers > 1 else (function(task) for task in tasks)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Make glibc keep freed memory for the next array instead of returning it to the system.

    Otherwise each large array gets new pages, which the kernel must zero: a quarter of the time of a UNETR step on a
    CPU. Call it once, early, in every process; without glibc it does nothing.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has no mallopt
        return
    if not libc.mallopt(_M_MMAP_THRESHOLD, 2**30):  # some versions accept 32 MiB at most
        libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_memory() -> None:
    """Make glibc return the memory that it keeps; without glibc it does nothing."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, on_death: OnDeath[Task, Result]
) -> Generator[Result, None, None]:
    left, died = dict(enumerate(tasks)), 0
    while left:
        pool = _pool(workers)
        try:
            futures = {pool.submit(function, task): number for number, task in left.items()}
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                yield result
        except BrokenProcessPool:
            suspects = list(left)[: 2 * workers]  # tasks start in order, so these include the one that killed a process
            for number in suspects if on_death is not None else ():
                task = left.pop(number)
                try:
                    with _pool(1) as one:
                        result = one.submit(function, task).result()
                except BrokenProcessPool:
                    result = on_death(task)  # type: ignore[misc]
                    died += 1
                yield result
            if on_death is None or died == len(tasks):
                raise WorkerError(
                    "a worker process died, perhaps out of memory; run again with fewer workers "
                    "(in a script, under 'if __name__ == \"__main__\":')."
                ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """Set up a worker process: it ignores interrupts, which the parent handles, and ends with the parent."""
    _one_thread()
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _one_thread() -> None:
    """Use one thread per process; libraries read these variables when they first compute."""
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


def _on_cluster(
    function: Callable[[Task], Result], tasks: Sequence[Task], scheduler: str, on_death: OnDeath[Task, Result]
) -> Generator[Result, None, None]:
    try:
        import distributed
    except ImportError:
        raise WorkerError("a cluster needs the package 'distributed'; pip install 'voxmim[cluster]'.") from None
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise WorkerError(
            f"{scheduler}: no Dask scheduler answers there ({error}); check the address, or start one."
        ) from None
    with client:  # cancels tasks that are not done
        try:
            futures = client.map(partial(_on_worker, function), tasks, pure=False)
            task_of = dict(zip(futures, tasks, strict=True))
            for future in distributed.as_completed(futures, loop=client.loop):
                try:
                    yield future.result()
                except distributed.KilledWorker as error:
                    if on_death is None:
                        raise WorkerError(
                            f"{scheduler}: a task was tried on several workers and each died ({error}); "
                            "give them more memory."
                        ) from None
                    yield on_death(task_of[future])
        except (CancelledError, distributed.comm.CommClosedError) as error:
            raise WorkerError(f"{scheduler}: the scheduler went away ({error}); start it and run again.") from None
        except ModuleNotFoundError as error:
            raise WorkerError(f"{scheduler}: its workers lack a package ({error}); install voxmim there.") from None


def _on_worker(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task on a worker of a cluster."""
    _one_thread()
    keep_memory()
    return function(task)

"""Training processes, forked from a server that has already imported everything."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

CONTEXT = get_context("forkserver")  # one server per test process, so its modules are set here only
CONTEXT.set_forkserver_preload(  # the api imports these inside its functions
    [
        "voxmim.cli",
        "voxmim.training.pretrain",
        "voxmim.training.finetune",
        "voxmim.report.run_page",
        "voxmim.store.prepare",
        "lightning.fabric",
    ]
)


def in_two_processes(act: Callable[..., None], *arguments: Any, kill: Callable[[], bool] | None = None) -> list[int]:
    """Call act(*arguments) in two processes with the environment of torchrun; return their exit statuses.

    If `kill` is given, both are killed once it returns True.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [CONTEXT.Process(target=_one, args=(rank, port, act, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    while kill is not None and all(process.is_alive() for process in processes):
        if kill():
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    for process in processes:
        process.join(timeout=250)
        if process.exitcode is None:
            process.kill()
            raise AssertionError("a process hangs")
    return [int(process.exitcode or 0) for process in processes]


def rows_reach(run: Path, rows: int) -> Callable[[], bool]:
    """Return a function that checks whether metrics.csv has at least that many rows."""
    file = run / "metrics.csv"
    return lambda: file.is_file() and file.read_text().count("\n") > rows


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition is true; fail after a timeout."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def _one(rank: int, port: int, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    for name in [name for name in os.environ if name.startswith(("SLURM", "TORCHELASTIC"))]:
        del os.environ[name]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    act(*arguments)

"""Running one function on many tasks: every result once, and the handling of processes that die."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from processes import wait_for
from voxmim.errors import StoreError, WorkerError
from voxmim.workers import run
from worker_tasks import die, die_at_three, new_pages, record_start, refuse, square, threads


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Two worker processes of a Dask cluster on loopback."""
    distributed = pytest.importorskip("distributed")
    made = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    with made:
        yield made


@pytest.fixture(params=["here", "processes", "cluster"])
def backend(request: pytest.FixtureRequest) -> dict[str, object]:
    """The arguments of `run` for each backend."""
    if request.param == "cluster":
        return {"scheduler": request.getfixturevalue("cluster").scheduler_address}
    return {"workers": 1 if request.param == "here" else 2}


def test_every_task_has_its_result_once(backend: dict[str, object]) -> None:
    assert sorted(run(square, range(20), **backend)) == [(number, number**2) for number in range(20)]
    assert list(run(square, [], **backend)) == []


def test_an_error_of_the_function_stops_the_run(backend: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="no room"):
        list(run(refuse, range(4), **backend))


def test_closing_the_results_cancels_queued_tasks(backend: dict[str, object], tmp_path: Path) -> None:
    with closing(run(partial(record_start, folder=tmp_path, pause=0.05), range(40), **backend)) as results:
        next(results)
    started = len(list(tmp_path.iterdir()))
    time.sleep(0.2)
    assert started <= len(list(tmp_path.iterdir())) < 12


def test_several_processes_compute_with_one_thread_each(cluster: object) -> None:
    assert set(run(threads, range(2), workers=2)) == {("1", 1)}
    assert set(run(threads, range(2), scheduler=cluster.scheduler_address)) == {("1", 1)}


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")


@glibc
@pytest.mark.parametrize("dask", [False, True])
def test_memory_is_kept_for_the_next_array(dask: bool) -> None:
    """With Dask, which sets MALLOC_TRIM_THRESHOLD_, arrays of 1 MiB would get new pages too."""
    code = "from worker_tasks import new_pages; from voxmim.workers import keep_memory; keep_memory() if {} else 0; "
    code += "print(new_pages(1), new_pages(60))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    environment |= {"MALLOC_TRIM_THRESHOLD_": "65536"} if dask else {}
    before, after = (
        subprocess.run(
            [sys.executable, "-c", code.format(keep)], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        for keep in (False, True)
    )
    assert float(before[1]) > 20 * float(after[1])
    assert float(after[0]) < 0.05


@glibc
def test_kept_memory_is_returned() -> None:
    """Memory between arrays in use, which glibc does not return by itself; in a separate process."""
    code = """
from mmap import PAGESIZE
from pathlib import Path
import numpy as np
from voxmim.workers import keep_memory, return_memory
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE / 2**20
keep_memory()
arrays = [np.ones(60 * 2**17) for _ in range(3)]
full = resident()
del arrays[1]
kept = resident()
return_memory()
print(full - kept, full - resident())
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    by_itself, returned = map(float, printed.split())
    assert by_itself < 5
    assert 55 < returned < 65


@glibc
@pytest.mark.parametrize("kind", ["processes", "cluster"])
def test_every_worker_keeps_memory_for_the_next_array(kind: str, request: pytest.FixtureRequest) -> None:
    backend = {"workers": 2}
    if kind == "cluster":
        backend = {"scheduler": request.getfixturevalue("cluster").scheduler_address}
    assert max(run(new_pages, [60] * 4, **backend)) < 0.01


def test_a_task_that_kills_its_process_gets_its_own_result() -> None:
    results = run(die_at_three, range(8), workers=2, on_death=lambda number: f"{number} died")
    assert sorted(map(str, results)) == ["0", "1", "2", "3 died", "4", "5", "6", "7"]


def test_a_local_process_that_dies_gives_one_error() -> None:
    with pytest.raises(WorkerError, match="a worker process died, perhaps out of memory"):
        list(run(die, range(4), workers=2))


def test_tasks_of_a_killed_cluster_worker_are_run_again(cluster: object, tmp_path: Path) -> None:
    results = []
    with closing(
        run(partial(record_start, folder=tmp_path, pause=0.1), range(12), scheduler=cluster.scheduler_address)
    ) as outcomes:
        for result in outcomes:
            if not results:
                victim = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
                os.kill(int(victim.name.split("-")[1]), signal.SIGKILL)
            results.append(result)
    assert sorted(results) == list(range(12))
    assert len(list(tmp_path.iterdir())) > 12  # some task was started twice


def test_a_task_that_kills_every_worker_gives_one_error(cluster: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(WorkerError, match="was tried on several workers and each died"):
        list(run(die, range(1), scheduler=cluster.scheduler_address))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "tcp://127.0.0.1:9"}, r"tcp://127\.0\.0\.1:9: no Dask scheduler answers there"),
        ({"scheduler": "nonsense://here"}, r"nonsense://here: no Dask scheduler answers there"),
        ({"scheduler": "tcp://127.0.0.1:9", "workers": 2}, "has workers of its own; leave out the number"),
    ],
)
def test_a_cluster_that_does_not_answer_is_refused(
    arguments: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("voxmim.workers._CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(WorkerError, match=message):
        list(run(square, range(3), **arguments))


def test_a_missing_dask_package_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkerError, match=r"pip install 'voxmim\[cluster\]'"):
        list(run(square, range(3), scheduler="tcp://127.0.0.1:9"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_local_processes_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "from functools import partial; from pathlib import Path; from worker_tasks import record_start; "
        f"from voxmim.workers import run; task = partial(record_start, folder=Path({str(tmp_path)!r}), pause=60); "
        "list(run(task, [0, 1], 2))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.kill()
    processes = [int(file.name.split("-")[1]) for file in tmp_path.iterdir()]
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))

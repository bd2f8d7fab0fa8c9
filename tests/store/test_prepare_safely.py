"""However `prepare` is interrupted, the store stays valid, and running it again completes it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from processes import CONTEXT, wait_for
from voxmim.errors import StoreError
from voxmim.store import prepare as prepare_module
from voxmim.store.format import Store
from voxmim.store.prepare import PrepareResult, prepare
from voxmim.store.verify import verify
from voxmim.store.writing import unfinished_files, writing, written_cases

Maker = Callable[..., Path]


def run(source: Path, out: Path, **options: object) -> PrepareResult:
    return prepare(source, out, **{"workers": 1, "quiet": True, **options})  # type: ignore[arg-type]


def run_slowly(source: Path, out: Path) -> None:
    """Run with a pause in the middle of each write, so that a kill interrupts one."""
    real = Path.write_bytes

    def write(file: Path, content: bytes) -> int:
        real(file, content[: len(content) // 2])
        time.sleep(0.1)
        return real(file, content)

    Path.write_bytes = write  # type: ignore[method-assign,assignment]
    run(source, out)


def hold_lock(out: Path, ready: Path) -> None:
    with writing(out):
        ready.touch()
        time.sleep(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return small_disk(options), which mounts (or remounts) a separate file system with these options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        process = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if process.returncode:
            pytest.skip("this user may not mount a file system")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", folder], check=True)


# Killed


def test_after_repeated_kills_the_store_is_the_same(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=16), tmp_path / "store"
    whole = Store(run(source, tmp_path / "whole").store).digest()
    rng, unfinished = np.random.default_rng(0), 0
    for _ in range(5):
        already = len(list(out.glob("images/[!.]*")))
        process = CONTEXT.Process(target=run_slowly, args=(source, out))
        process.start()
        while process.is_alive() and len(list(out.glob("images/[!.]*"))) == already:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(written_cases(out))) > already  # raises if one is incomplete
        unfinished += len(unfinished_files(out))
    assert unfinished > 0
    run(source, out)
    assert Store(out).digest() == whole
    assert unfinished_files(out) == verify(out, workers=1) == []


def test_temporary_files_of_killed_processes_are_removed(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=1), tmp_path / "store"
    run(source, out)
    leftovers = [out / "images" / ".77-c.b2nd", out / "labels" / ".78-c.b2nd", out / ".79-index.json"]
    for file in leftovers:
        file.write_bytes(b"half")
    assert unfinished_files(out) == sorted(leftovers)
    assert len(verify(out, workers=1)) == 3
    run(source, out)
    assert unfinished_files(out) == verify(out, workers=1) == []


def test_on_a_cluster_every_scan_is_prepared_once_even_if_a_worker_is_killed(
    tiny_source: Maker, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    source, out = tiny_source(cases=20), tmp_path / "store"
    whole = Store(run(source, tmp_path / "whole").store).digest()
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    killed = []

    def kill() -> None:
        wait_for(lambda: len(list(out.glob("images/[!.]*"))) > 2)
        killed.append(cluster.workers[0].pid)
        os.kill(killed[0], signal.SIGKILL)
        killed.append(len(list(out.glob("images/[!.]*"))))

    with cluster:
        killer = threading.Thread(target=kill)
        killer.start()
        result = run(source, out, workers=None, scheduler=cluster.scheduler_address)
        killer.join()
    assert 2 < killed[1] < 20  # killed in the middle
    assert (result.prepared, result.skipped_already, result.failed) == (20, 0, [])
    assert Store(out).digest() == whole
    assert verify(out, workers=1) == []


# Two processes


def test_a_second_process_on_the_same_store_is_refused(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=2), tmp_path / "store"
    first = CONTEXT.Process(target=hold_lock, args=(out, tmp_path / "ready"))
    first.start()
    wait_for((tmp_path / "ready").exists)
    with pytest.raises(StoreError, match=r"store: another process is changing this store; wait for its end"):
        run(source, out)
    assert not list(out.glob("images/*"))
    first.kill()
    first.join()
    assert run(source, out).prepared == 2  # the lock ends with its process


# Full disk, missing permission, missing file


def test_a_full_disk_stops_preparing_with_one_error(
    tiny_source: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tiny_source(cases=5), tmp_path / "store"
    real, tried = Path.write_bytes, []

    def full(file: Path, content: bytes) -> int:
        if "images" in file.parts:
            tried.append(file)
            if len(tried) > 2:
                real(file, content[:99])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"images/case_2\.b2nd: cannot be written \(No space left on device\)"):
        run(source, out)
    assert len(tried) == 3
    assert list(Store(out).cases) == ["case_0", "case_1"]
    assert unfinished_files(out) == []
    monkeypatch.undo()
    assert run(source, out).prepared == 3
    assert verify(out, workers=1) == []


def test_a_real_full_disk_stops_preparing_and_the_next_run_completes_it(
    tiny_source: Maker, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    source = tiny_source(cases=8)
    whole = Store(run(source, tmp_path / "whole").store)
    bytes_of_three = 3 * sum(file.stat().st_size for file in whole.path.glob("*/case_0.b2nd"))
    out = small_disk(f"size={bytes_of_three}") / "store"
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); fix this and run again"):
        run(source, out)
    assert unfinished_files(out) == []
    written = [case.name for case in written_cases(out)]
    assert len(written) < 4
    small_disk("size=10m")
    result = run(source, out)
    assert result.skipped_already == len(written)
    assert Store(out).digest() == whole.digest()
    assert verify(out, workers=1) == []


def test_a_read_only_disk_gives_one_error(
    tiny_source: Maker, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    source = tiny_source(cases=2, splits={"train": ["case_0"]})
    out = small_disk("size=10m") / "store"
    digest = Store(run(source, out).store).digest()
    small_disk("ro")
    (source / "splits.json").unlink()
    with pytest.raises(StoreError, match=r"store: cannot be written \(Read-only file system\)"):
        run(source, out)
    assert Store(out).digest() == digest
    small_disk("rw")


def test_a_store_below_a_file_is_refused(tiny_source: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store: cannot be written \(Not a directory\)"):
        run(tiny_source(cases=1), tmp_path / "file" / "store", spacing=(1.0, 1.0, 1.0), intensity="ct")


def test_a_scan_that_vanishes_is_left_out(tiny_source: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tiny_source(cases=3), tmp_path / "store"
    real = prepare_module.plan_update

    def plan_update(*given: object) -> object:
        (source / "imagesTr" / "case_1.nii.gz").unlink()
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare_module, "plan_update", plan_update)
    result = run(source, out)
    assert [(name, text.split(": ")[1]) for name, text in result.failed] == [
        ("case_1", "there is no such file; check the path.")
    ]
    assert list(Store(out).cases) == ["case_0", "case_2"]
    assert verify(out, workers=1) == []


# Changed files


def test_an_edited_file_is_prepared_again(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=3), tmp_path / "store"
    before = Store(run(source, out).store)
    other = tiny_source("other", cases=1, shape=(20, 18, 17))
    for kind, name in (("imagesTr", "case_1"), ("labelsTr", "case_1")):
        (source / kind / f"{name}.nii.gz").write_bytes((other / kind / "case_0.nii.gz").read_bytes())
    label = source / "labelsTr" / "case_2.nii.gz"
    os.utime(label, ns=(0, label.stat().st_mtime_ns + 1))
    result = run(source, out)
    assert (result.prepared, result.skipped_already) == (2, 1)
    after = Store(out)
    changed = [name for name in after.cases if after.cases[name].digest != before.cases[name].digest]
    assert changed == ["case_1"]
    assert run(source, out).prepared == 0


def test_cases_of_an_older_store_are_kept(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=2), tmp_path / "store"
    run(source, out)
    for case in list(written_cases(out)):
        store = Store(out)
        prepare_module.write_case(out, replace(case, stamps=()), store.image(case.name), store.label_map(case.name))
    assert run(source, out).skipped_already == 2

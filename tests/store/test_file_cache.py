"""The file cache of a store: few reads, the same voxels in every read, limited memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stores import CT, make, voxels
from voxmim.store import file_cache
from voxmim.store.file_cache import FileCache


def reads() -> int:
    """Calls of read and pread by this process."""
    return int(Path("/proc/self/io").read_text().split("syscr:")[1].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_first_crop_of_a_scan_takes_few_reads_and_further_ones_none(tmp_path: Path) -> None:
    store = make(tmp_path)
    counting = reads()
    counting = reads() - counting  # the reads of counting itself
    before = reads()
    store.crop("a", (1, 2, 3), (16, 16, 16))
    first = reads()
    store.crop("a", (3, 2, 1), (16, 16, 16))
    assert first - before - counting <= 10
    assert reads() - first == counting


def test_crops_are_the_same_before_and_after_the_array_is_cached(tmp_path: Path) -> None:
    store, expected = make(tmp_path), voxels(CT, seed=0)
    box = (slice(None), slice(2, 30), slice(1, 20), slice(0, 9))
    file = store._cache.get(tmp_path / "images" / "a.b2nd")
    for _ in range(2 + expected.nbytes // expected[box].nbytes):
        crop = file.box(box)
        np.testing.assert_array_equal(crop, expected[box])
    assert file.nbytes == expected.nbytes
    assert json.loads(file.meta["case"])["name"] == "a"
    np.testing.assert_array_equal(file.whole(), expected)


def test_the_least_recently_used_files_are_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.setattr(file_cache, "LIMIT", 1)
    files, (a, b) = FileCache(), (tmp_path / "images" / f"{name}.b2nd" for name in "ab")
    first = files.get(a)
    assert files.get(a) is first
    files.get(b)
    assert files.get(a) is not first


def test_a_large_file_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
    monkeypatch.setattr(file_cache, "_LARGE", 10)
    np.testing.assert_array_equal(store.crop("a", (0, 0, 0), (8, 8, 8)), voxels(CT, seed=0)[:, :8, :8, :8])
    assert store._cache.get(tmp_path / "images" / "a.b2nd").nbytes == 0

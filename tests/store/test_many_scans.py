"""Stores of ten thousand scans: opened fast, sampled as fast as one of ten, with constant memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stores import make_store, stream
from voxmim.store import file_cache
from voxmim.store.crops import CropPlan
from voxmim.store.format import Index, Store


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Two stores of the same three scans under 10 and under 10,000 names."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("links")
    label = np.zeros((64, 60, 56), np.uint8)
    label[3:9, 50:58, 20:30], label[40, 7, 50] = 1, 2
    scans = {f"scan_{i}": (rng.integers(-300, 300, (1, *label.shape)).astype(np.int16), label) for i in range(3)}
    few = make_store(folder / "few", scans)
    stores = []
    for count in (10, 10_000):
        path, cases = folder / str(count), []
        for i in range(count):
            cases.append(replace(few.cases[f"scan_{i % 3}"], name=f"case_{i:05d}"))
            for kind in ("images", "labels"):
                (path / kind).mkdir(parents=True, exist_ok=True)
                os.link(few.path / kind / f"scan_{i % 3}.b2nd", path / kind / f"case_{i:05d}.b2nd")
        Index("links", few.preparation, few.labels, cases).write(path)
        stores.append(Store(path))
    return stores[0], stores[1]


BALANCED = CropPlan((48, 48, 48), (-300.0, 300.0), seed=0, labelled=True, foreground=0.5)


def test_a_store_of_ten_thousand_scans_opens_fast(small_and_large: tuple[Store, Store]) -> None:
    start = time.process_time()
    store = Store(small_and_large[1].path)
    assert time.process_time() - start < 2
    assert len(store.cases) == 10_000


def test_sampling_ten_thousand_scans_is_as_fast_as_sampling_ten(
    small_and_large: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "LIMIT", 0)  # otherwise the small store would be cached
    streams, spent = [stream(store, BALANCED) for store in small_and_large], ([], [])
    for first in range(0, 200, 50):  # interleaved, so that other load affects both
        for crops, times in zip(streams, spent, strict=True):
            start = time.process_time()
            for number in range(first, first + 50):
                crops[number]
            times.append(time.process_time() - start)
    assert min(spent[1]) < 2 * min(spent[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_constant_over_the_crops_of_many_scans(
    small_and_large: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "LIMIT", 2**22)  # bytes; the first 200 crops fill the cache
    crops = stream(small_and_large[1], replace(BALANCED, size=(4, 4, 4)))

    def memory_after(numbers: range) -> int:
        for number in numbers:
            crops[number]
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = memory_after(range(200))
    assert memory_after(range(200, 1200)) - before < 10 * 2**20

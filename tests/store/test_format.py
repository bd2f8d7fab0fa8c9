from __future__ import annotations

import json
import os
import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import CT, MR, SHAPE, labels, make, voxels
from voxmim.errors import StoreError
from voxmim.store import file_cache
from voxmim.store.format import SAMPLES, Case, Index, Store
from voxmim.store.writing import write_case, written_cases


@pytest.fixture(scope="module", params=[CT, MR], ids=["ct", "mr"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("store"), request.param)


def test_a_written_store_is_read_back(store: Store) -> None:
    for seed, name in enumerate("ab"):
        np.testing.assert_array_equal(store.image(name), voxels(store.preparation, seed=seed))
        assert store.image(name).dtype == voxels(store.preparation).dtype
    np.testing.assert_array_equal(store.label_map("a"), labels())
    assert store.name == "tiny"
    assert store.labels == {1: "liver", 7: "vessel", 255: "dot"}
    assert [case.name for case in store.in_split("train")] == ["a"]
    assert [case.name for case in store.in_split("unlabelled", "train")] == ["a", "b"]
    assert store.cases["a"].image == ("/scans/a.nii.gz",)
    assert store.cases["a"].shape == SHAPE


boxes = st.tuples(*[st.tuples(st.integers(-50, 50), st.integers(1, 60))] * 3)


@given(boxes)
@settings(max_examples=60, deadline=None)
def test_a_crop_agrees_with_slicing_a_padded_scan(store: Store, box: tuple[tuple[int, int], ...]) -> None:
    start, size = zip(*box, strict=True)
    air = -1024 if store.preparation.intensity == "ct" else 0
    for whole, crop, fill in (
        (store.image("a"), store.crop("a", start, size), air),
        (store.label_map("a")[None], store.label_crop("a", start, size)[None], 0),
    ):
        padded = np.pad(whole, ((0, 0), *[(60, 120)] * 3), constant_values=fill)
        expected = padded[(slice(None), *(slice(60 + s, 60 + s + n) for s, n in zip(start, size, strict=True)))]
        np.testing.assert_array_equal(crop, expected)
        assert crop.dtype == whole.dtype


def test_samples_are_voxels_of_their_labels_and_evenly_spaced(store: Store) -> None:
    samples = store.samples("a")
    array = labels()
    assert set(samples) == {1, 7, 255}
    for value, rows in samples.items():
        assert np.all(array[tuple(rows.T)] == value)
        assert len(np.unique(rows, axis=0)) == len(rows) == min(SAMPLES, np.sum(array == value))
    assert samples[1].min(axis=0).tolist() == [3, 5, 4]
    assert samples[1].max(axis=0).tolist() == [19, 17, 10]
    assert store.cases["a"].counts == {v: int(np.sum(array == v)) for v in (1, 7, 255)}
    assert store.cases["b"].counts == {}


def test_a_store_is_pickled_without_its_open_files(store: Store) -> None:
    store.image("a")
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.crop("a", (1, 2, 3), (4, 5, 6)), store.crop("a", (1, 2, 3), (4, 5, 6)))


def test_the_digest_depends_on_voxels_labels_and_splits(tmp_path: Path) -> None:
    first = make(tmp_path / "1")
    assert first.digest() == make(tmp_path / "2").digest()
    image = voxels(CT)
    variants = [(image, labels(), "train"), (image + 1, labels(), "train"), (image, labels() * 0, "train")]
    digests = set()
    for voxels_, labels_, split in [*variants, (image, labels(), "test")]:
        case = write_case(tmp_path / "1", Case("a", split, SHAPE, ("x",)), voxels_, labels_)
        Index("tiny", CT, {}, [case]).write(tmp_path / "1")
        digests.add(Store(tmp_path / "1").digest())
    assert len(digests) == 4


def test_entries_are_read_back_from_the_files(tmp_path: Path) -> None:
    store = make(tmp_path)
    (tmp_path / "images" / ".77-c.b2nd").write_bytes(b"left by a killed writer")
    assert list(written_cases(tmp_path)) == list(store.cases.values())
    assert list(written_cases(tmp_path / "nowhere")) == []


def test_a_case_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    before = sorted(file for file in tmp_path.rglob("*") if "labels" not in file.parts)

    def fail(source: Path, target: Path) -> None:
        if "images" in Path(target).parts:
            raise OSError("no space left on device")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match=r"images/c\.b2nd: cannot be written \(no space left on device\)"):
        write_case(tmp_path, Case("c", "train", SHAPE, ("x",)), voxels(CT), labels())
    assert sorted(file for file in tmp_path.rglob("*") if "labels" not in file.parts) == before
    assert [case.name for case in written_cases(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"this is not a store \(no index.json\); make one with 'voxmim prepare"),
        ("{", "index is damaged"),
        ("{}", "index is damaged"),
        (json.dumps({"name": "x", "preparation": {"spacing": [1], "intensity": "ct", "channels": []}}), "damaged"),
    ],
)
def test_a_folder_that_is_not_a_store_is_refused(tmp_path: Path, index: str | None, message: str) -> None:
    if index is not None:
        (tmp_path / "index.json").write_text(index)
    with pytest.raises(StoreError, match=message):
        Store(tmp_path)


def test_a_store_without_cases_is_refused(tmp_path: Path) -> None:
    Index("tiny", CT, {}, []).write(tmp_path)
    with pytest.raises(StoreError, match="the store holds no case"):
        Store(tmp_path)
    index = Index.read(tmp_path)
    assert (index.preparation, index.cases) == (CT, [])
    assert Index.read(tmp_path / "nowhere") is None


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    store = make(tmp_path)
    file = tmp_path / "images" / "a.b2nd"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"a\.b2nd: this file of the store is damaged"):
        store.image("a")
    with pytest.raises(StoreError, match=r"a\.b2nd: this file of the store is damaged.*delete it"):
        list(written_cases(tmp_path))
    file.unlink()
    with pytest.raises(StoreError, match=r"a\.b2nd: this file of the store is missing"):
        store.crop("a", (0, 0, 0), (2, 2, 2))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_open_files_stay_constant_over_many_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "LIMIT", 2**20)  # a few files
    names = tuple(f"case_{i}" for i in range(8))
    store = make(tmp_path, names=names)

    def read(count: int) -> tuple[int, int]:
        """Resident memory in bytes and number of open files after this many crops."""
        for i in range(count):
            store.crop(names[i % 8], (i % 9 - 3, 2, 1), (32, 32, 32))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return resident, len(os.listdir("/proc/self/fd"))

    memory, files = read(200)
    memory_after, files_after = read(2000)  # 125 MiB of crops
    assert memory_after - memory < 10 * 2**20
    assert files_after <= files


def test_regions_and_missing_channels_are_stored_and_empty_in_older_stores(tmp_path: Path) -> None:
    whole = Case("a", "train", SHAPE, ("a.nii",), "a_label.nii")
    lacking = Case("b", "train", SHAPE, ("b_0001.nii",), "b_label.nii", missing=(0,))
    cases = [write_case(tmp_path, case, voxels(MR), labels()) for case in (whole, lacking)]
    Index("mr", MR, {1: "core", 2: "rim"}, cases, regions={"whole": (2, 1), "core": (1,)}).write(tmp_path)
    store = Store(tmp_path)
    assert list(store.regions.items()) == [("whole", (2, 1)), ("core", (1,))]
    assert [case.missing for case in store.cases.values()] == [(), (0,)]
    assert list(written_cases(tmp_path)) == list(store.cases.values())
    assert [case.name for case in store.labelled("train", "val")] == ["a"]

    index = json.loads((tmp_path / "index.json").read_text())
    del index["regions"], index["cases"][0]["missing"], index["cases"][1]["missing"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert Store(tmp_path).regions == {}
    assert [case.missing for case in Store(tmp_path).cases.values()] == [(), ()]


def test_the_patient_is_stored_and_defaults_to_the_case_in_older_stores(tmp_path: Path) -> None:
    cases = [Case("a", "train", SHAPE, ("a.nii",), group="p"), Case("b", "train", SHAPE, ("b.nii",))]
    written = [write_case(tmp_path, case, voxels(MR), None) for case in cases]
    Index("mr", MR, {}, written).write(tmp_path)
    assert [case.group for case in written_cases(tmp_path)] == ["p", "b"]
    index = json.loads((tmp_path / "index.json").read_text())
    del index["cases"][0]["group"], index["preparation"]["match_channels"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert [case.group for case in Store(tmp_path).cases.values()] == ["a", "b"]
    assert not Store(tmp_path).preparation.match_channels

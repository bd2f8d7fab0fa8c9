"""Adding sources to a store: what is kept, conflicts, and splits by patient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxmim.errors import StoreError
from voxmim.sources import Source, SourceCase
from voxmim.store.format import Preparation, Store
from voxmim.store.prepare import PrepareResult, prepare
from voxmim.store.split import split
from voxmim.store.update import plan_update, stamps
from voxmim.store.verify import verify

Maker = Callable[..., Path]


def run(source: Path, out: Path) -> PrepareResult:
    return prepare(source, out, workers=1, quiet=True)


def change(source: Path, **changes: object) -> None:
    """Change dataset.json."""
    file = source / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def with_prefix(source: Path, prefix: str) -> Path:
    """Rename every case of a source."""
    for file in [*source.glob("imagesTr/*"), *source.glob("labelsTr/*")]:
        file.rename(file.with_name(prefix + file.name))
    return source


def test_a_second_source_is_added_and_the_first_is_kept(tiny_source: Maker, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = tiny_source("first", cases=3, splits={"train": ["case_0"], "test": ["case_1", "case_2"]})
    second = with_prefix(tiny_source("second", cases=2, shape=(21, 18, 16)), "new_")
    change(first, licence="CC0", regions={"all": [1, 2]})
    change(second, labels={"background": 0, "bone": 1, "fat": 2, "gland": 3}, licence="CC BY", name="other")
    run(first, out)
    before = Store(out)
    result = run(second, out)
    store = Store(out)
    assert (result.prepared, result.skipped_already) == (2, 0)
    assert list(store.cases) == ["case_0", "case_1", "case_2", "new_case_0", "new_case_1"]
    assert {name: store.cases[name] for name in before.cases} == before.cases
    assert (store.name, store.licence, store.regions) == ("tiny", "CC0; CC BY", {"all": (1, 2)})
    assert store.labels == {1: "bone", 2: "fat", 3: "gland"}
    assert verify(out, workers=1) == []
    shutil.rmtree(first)
    shutil.rmtree(second / "imagesTr")
    shutil.copytree(tiny_source("third", cases=1, shape=(20, 19, 16)) / "imagesTr", second / "imagesTr")
    shutil.rmtree(second / "labelsTr")
    assert run(second, out).prepared == 1  # case_0 again; its first source no longer exists
    assert set(Store(out).cases) == set(store.cases)


def test_a_lost_label_file_is_prepared_again_and_a_refused_label_map_is_not(
    tiny_source: Maker, tmp_path: Path, write_scan: Maker
) -> None:
    source = tiny_source("source", cases=3)
    write_scan(source / "labelsTr" / "case_1.nii.gz", np.full((20, 18, 16), 0.5, dtype=np.float32))
    store = run(source, tmp_path / "store").store
    assert Store(store).cases["case_1"].label is None
    assert run(source, store).prepared == 0
    (store / "labels" / "case_2.b2nd").unlink()
    assert run(source, store).prepared == 1
    assert verify(store, workers=1) == []
    write_scan(source / "labelsTr" / "case_1.nii.gz", np.ones((20, 18, 16), dtype=np.uint8))
    assert run(source, store).prepared == 1
    assert set(Store(store).cases["case_1"].counts) == {1}


def test_a_case_of_the_same_name_from_another_source_is_refused(tiny_source: Maker, tmp_path: Path) -> None:
    first, second = tiny_source("first", cases=2), tiny_source("second", cases=1)
    digest = Store(run(first, tmp_path / "store").store).digest()
    with pytest.raises(StoreError, match=r"second/imagesTr/case_0.nii.gz: the store has a case case_0 already, of /"):
        run(second, tmp_path / "store")
    assert Store(tmp_path / "store").digest() == digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "bone": 2, "fat": 1}}, r"second: label value 1 is fat, but bone in the store"),
        ({"regions": {"all": [1]}}, r"second: region all is \(1,\), but \(1, 2\) in the store"),
    ],
)
def test_labels_with_other_meanings_are_refused(
    tiny_source: Maker, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    first, second = tiny_source("first", cases=1), with_prefix(tiny_source("second", cases=1), "new_")
    change(first, regions={"all": [1, 2]})
    change(second, **changes)
    run(first, tmp_path / "store")
    with pytest.raises(StoreError, match=message):
        run(second, tmp_path / "store")


def test_new_scans_get_the_split_of_their_patient(tiny_source: Maker, tmp_path: Path) -> None:
    out = tmp_path / "store"
    run(tiny_source(cases=2, splits={"train": ["case_0"], "test": ["case_1"]}), out)
    rows = [  # name, patient, labelled, split drawn by its source, split in the store
        ("again_0", "case_0", True, "val", "train"),
        ("again_1", "case_1", True, "train", "test"),
        ("bare_0", "case_0", False, "unlabelled", "unlabelled"),
        ("bare_1", "case_1", False, "unlabelled", "test"),
        ("other", "someone", True, "val", "val"),
    ]
    cases = tuple(
        SourceCase(name, (tmp_path / name,), tmp_path / name if labelled else None, split=drawn, group=patient)
        for name, patient, labelled, drawn, _ in rows
    )
    update = plan_update(Source(tmp_path, "more", ("CT",), {}, cases), out, Preparation((1.0, 1.0, 1.0), "ct", ("CT",)))
    assert {case.name: case.split for case in update.todo} == {name: in_store for name, *_, in_store in rows}
    assert [case.name for case in update.others] == ["case_0", "case_1"]


# Splitting again


def test_a_new_split_is_kept_when_the_store_grows(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=8), tmp_path / "store"
    run(source, out)
    voxels = {case.name: case.digest for case in Store(out).cases.values()}
    assert split(out, seed=3, fractions=(0.25, 0.5)) == {"train": 2, "val": 2, "test": 4, "unlabelled": 0}
    drawn = {case.name: case.split for case in Store(out).cases.values()}
    assert split(out, seed=3, fractions=(0.25, 0.5))["test"] == 4
    assert {case.name: case.split for case in Store(out).cases.values()} == drawn
    assert {case.name: case.digest for case in Store(out).cases.values()} == voxels
    assert split(out, seed=4) == {"train": 5, "val": 1, "test": 2, "unlabelled": 0}
    split(out, seed=3, fractions=(0.25, 0.5))
    (source / "splits.json").write_text(json.dumps({"train": list(drawn)}))
    (source / "imagesTr" / "case_5.nii.gz").touch()  # prepared again, without a new split
    assert run(source, out).prepared == 1
    assert {case.name: case.split for case in Store(out).cases.values()} == drawn
    assert verify(out, workers=1) == []


def test_a_list_changes_the_splits_of_the_cases_that_it_names(tiny_source: Maker, tmp_path: Path) -> None:
    out, file = tmp_path / "store", tmp_path / "mine.json"
    run(tiny_source(cases=3, splits={"train": ["case_0", "case_1", "case_2"]}), out)
    file.write_text(json.dumps({"val": ["case_1"]}))
    assert split(out, file) == {"train": 2, "val": 1, "test": 0, "unlabelled": 0}
    assert Store(out).cases["case_1"].split == "val"
    index = json.loads((out / "index.json").read_text())
    for entry in index["cases"]:
        entry["group"] = "one"
    (out / "index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"mine\.json: scans of patient one are in two splits, case_0 in train and"):
        split(out, file)
    assert split(out, seed=1) == {"train": 3, "val": 0, "test": 0, "unlabelled": 0}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (-0.1, 0.2)])
def test_fractions_must_leave_cases_to_train_on(tmp_path: Path, fractions: tuple[float, float]) -> None:
    with pytest.raises(StoreError, match="leave nothing to train on"):
        split(tmp_path, fractions=fractions)


def test_a_mistyped_store_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this is not a store"):
        split(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


# When a file has changed


def test_stamps_cover_all_files_of_a_scan_and_of_a_series(tmp_path: Path) -> None:
    for name in ("a.mhd", "a.raw", "series/1.dcm", "series/2.dcm", "b.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    case = SourceCase("x", (tmp_path / "a.mhd", tmp_path / "series", tmp_path / "b.nii"), tmp_path / "gone")
    assert [size for size, _ in stamps(case)] == [10, 10, 5, 0]
    before = stamps(case)
    (tmp_path / "a.raw").write_bytes(b"other")
    (tmp_path / "series" / "2.dcm").write_bytes(b"other")
    assert [a != b for a, b in zip(before, stamps(case), strict=True)] == [True, True, False, False]
    within = replace(case, images=(tmp_path / "series" / "CT-1.series",))
    assert stamps(within)[0] == stamps(case)[1]


def test_findings_of_the_first_source_are_kept_and_new_scans_are_compared_with_it(
    tiny_source: Maker, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    first = tiny_source("first", cases=3)
    (first / "imagesTr" / "case_0.nii.gz").write_bytes(b"junk")
    (first / "labelsTr" / "case_1.nii.gz").write_bytes(b"junk")
    findings = run(first, out).findings
    assert [finding.kind for finding in findings] == ["unreadable", "unreadable"]
    second = with_prefix(tiny_source("second", cases=4, shape=(21, 18, 16)), "new_")
    shutil.copy(first / "imagesTr" / "case_2.nii.gz", second / "imagesTr" / "copy.nii.gz")
    result = run(second, out)
    assert [finding for finding in result.findings if finding.kind == "unreadable"] == findings
    (duplicate,) = (finding for finding in result.findings if finding.kind == "duplicate")
    assert duplicate.file == str(second / "imagesTr" / "copy.nii.gz")
    assert result.failed == [("copy", duplicate.reason)]
    store = Store(out)
    assert list(store.cases) == ["case_1", "case_2", "new_case_0", "new_case_1", "new_case_2", "new_case_3"]
    assert store.findings == result.findings
    assert verify(out, workers=1) == []
    shutil.copy(
        first / "imagesTr" / "case_2.nii.gz", first / "imagesTr" / "case_0.nii.gz"
    )  # readable now, but a duplicate
    assert [finding.kind for finding in run(first, out).findings] == ["duplicate", "unreadable", "duplicate"]

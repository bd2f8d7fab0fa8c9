"""Writing an inspected source as a list."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scan_files import add_pair, cut, scan, write
from voxmim import api
from voxmim.errors import SourceError
from voxmim.sources import open_source

Maker = Callable[..., Path]
RunVoxmim = Callable[..., tuple[int, str, str]]


def rows_of(file: Path) -> list[list[str]]:
    """Case, image and label of each row."""
    return [[row["case"], row["image"], row["label"]] for row in csv.DictReader(file.open())]


def test_label_maps_are_listed_with_their_scans_in_any_layout(tmp_path: Path) -> None:
    pairs = [("p1/ct", "p1/seg"), ("p2/ct", "p2/seg"), ("x", "x_seg"), ("x_2", "x_2_seg"), ("ct/y", "masks/y")]
    for seed, (image, label) in enumerate(pairs):
        for name, array in zip((image, label), scan(seed), strict=True):
            write(tmp_path / "scans" / f"{name}.nii.gz", array)
    api.inspect(tmp_path / "scans", workers=1, list_file=tmp_path / "list.csv")
    label_of = {image: label for _, image, label in rows_of(tmp_path / "list.csv")}
    assert label_of == {f"scans/{image}.nii.gz": f"scans/{label}.nii.gz" for image, label in pairs}
    assert all(case.label for case in open_source(tmp_path / "list.csv").cases)


def test_an_ambiguous_label_map_is_listed_without_a_scan(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write(tmp_path / "scans" / f"{name}.nii.gz", scan(seed)[0])
    write(tmp_path / "scans" / "seg.nii.gz", scan(0)[1])
    api.inspect(tmp_path / "scans", workers=1, list_file=tmp_path / "list.csv")
    unlabelled = [[name, f"scans/{name}.nii.gz", ""] for name in "ab"]
    assert rows_of(tmp_path / "list.csv") == [*unlabelled, ["seg", "", "scans/seg.nii.gz"]]
    with pytest.raises(SourceError, match=r"list\.csv: line 4 names 0 images for 1 channel; correct it"):
        open_source(tmp_path / "list.csv")


def test_a_list_has_labels_and_splits_but_no_cases_that_are_left_out(tiny_source: Maker) -> None:
    splits = {"train": ["case_0", "case_3"], "val": ["case_1"], "test": ["case_2"]}
    source = tiny_source(cases=4, splits=splits)
    cut(source / "imagesTr" / "case_3.nii.gz")
    cut(source / "labelsTr" / "case_2.nii.gz")
    api.inspect(source, workers=1, list_file=source / "list.csv")
    listed = {case.name: (case.images, case.label, case.split) for case in open_source(source / "list.csv").cases}
    expected = {case.name: (case.images, case.label, case.split) for case in open_source(source).cases}
    del expected["case_3"]
    expected["case_2"] = (expected["case_2"][0], None, "test")
    assert listed == expected


def test_a_list_names_the_channels_of_each_case(tmp_path: Path) -> None:
    for index in range(3):
        add_pair(tmp_path / "in", f"a_000{index}", *scan(index))
    shutil.rmtree(tmp_path / "in" / "labelsTr")
    write(tmp_path / "in" / "imagesTr" / "b_0001.nii.gz", scan(5)[0])
    names = '{"channel_names": {"0": "X", "1": "Y", "2": "Z"}, "labels": {}}'
    (tmp_path / "in" / "dataset.json").write_text(names)
    api.inspect(tmp_path / "in", workers=1, list_file=tmp_path / "list.csv")
    listed, given = (open_source(tmp_path / path) for path in ("list.csv", "in"))
    assert listed.channels == given.channels
    assert [(case.images, case.missing) for case in listed.cases] == [
        (case.images, case.missing) for case in given.cases
    ]


def test_an_existing_list_is_never_replaced(tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    (tmp_path / "list.csv").write_text("mine")
    status, _, error = run_voxmim("inspect", tmp_path, "--list", tmp_path / "list.csv")
    assert (status, (tmp_path / "list.csv").read_text()) == (2, "mine")
    assert "it is there already and may have been edited; give another file name" in error
    assert "ends in .csv" in run_voxmim("inspect", tmp_path, "--list", tmp_path / "list.json")[2]

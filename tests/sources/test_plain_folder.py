"""A plain folder of scans."""

from __future__ import annotations

import os
from pathlib import Path

from source_folders import fill, splits_of
from voxmim.sources import open_source


def test_a_plain_folder_gives_unlabelled_cases(tmp_path: Path) -> None:
    files = ["x.nii", "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/deep/y.nii", ".trash/z.nii", "notes.txt"]
    source = open_source(fill(tmp_path / "mine", *files))
    assert splits_of(source) == dict.fromkeys(["p1-t1", "p2-t1", "x", "y"], "unlabelled")
    assert (source.name, source.channels, source.labels) == ("mine", ("image",), {})


def test_files_of_the_same_name_keep_their_extensions(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "x.nii", "x.nii.gz", "y.nii"))
    assert [case.name for case in source.cases] == ["x.nii", "x.nii.gz", "y"]


def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    fill(tmp_path / "real", "w1/a.nii.gz", "w2/b.nii.gz")
    links = fill(tmp_path / "links")
    (links / "w1").symlink_to(tmp_path / "real" / "w1")
    (links / "again").symlink_to(tmp_path / "real" / "w1")
    (links / "b.nii.gz").symlink_to(tmp_path / "real" / "w2" / "b.nii.gz")
    (tmp_path / "real" / "w1" / "back").symlink_to(links)  # a cycle
    assert [case.name for case in open_source(links).cases] == ["a", "b"]


def test_a_folder_named_like_a_scan_is_not_a_scan(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "case0.nii/case0.nii", "case1.nii/case1.nii"))
    assert ([case.name for case in source.cases], source.findings) == (["case0", "case1"], ())


def test_a_file_name_that_is_not_utf_8_is_left_out_and_reported(tmp_path: Path) -> None:
    fill(tmp_path, "good.nii", "x.nii")
    os.rename(tmp_path / "x.nii", os.fsencode(tmp_path) + b"/M\xfcller.nii")
    source = open_source(tmp_path)
    assert [case.name for case in source.cases] == ["good"]
    (finding,) = source.findings
    assert finding.reason == f"{tmp_path}/M\\udcfcller.nii: this path is not UTF-8; rename it."


def test_a_segmentation_of_3d_slicer_is_not_a_scan(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "x.nii.gz", "x.seg.nrrd"))
    assert [case.name for case in source.cases] == ["x"]
    assert [(one.kind, one.action) for one in source.findings] == [("no scan", "left out")]

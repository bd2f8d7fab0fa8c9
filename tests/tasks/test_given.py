"""The scans given to a command: files, folders and lists, their names and channels."""

from __future__ import annotations

from pathlib import Path

import pytest

import dicom_files
from dicom_files import voxels, write_series
from source_folders import DATASET, fill
from voxmim.errors import SourceError
from voxmim.tasks.given import Scan, given_scans

ONE, TWO = ("CT",), ("T1", "T2")


def test_scans_in_folders_and_files_are_found_once_each(tmp_path: Path) -> None:
    fill(tmp_path, "a/one.nii.gz", "a/deep/two.nii", "b/three.nii.gz", "a/notes.txt")
    scans, left_out = given_scans([tmp_path / "a", tmp_path / "b/three.nii.gz", tmp_path / "a/one.nii.gz"], ONE)
    assert (list(scans), left_out) == (["two", "one", "three"], [])


def test_scans_of_the_same_name_are_prefixed_with_their_folder(tmp_path: Path) -> None:
    fill(tmp_path, "a/scan.nii.gz", "b/scan.nii", "b/other.nii")
    names = {"a-scan", "b-scan", "other"}
    assert set(given_scans([tmp_path], ONE)[0]) == names
    assert set(given_scans([tmp_path / "a", tmp_path / "b"], ONE)[0]) == names
    assert set(given_scans([tmp_path / "a/scan.nii.gz", tmp_path / "a/../b"], ONE)[0]) == names


def test_channels_of_scans_of_the_same_name_stay_together(tmp_path: Path) -> None:
    files = ["a/x_0000.nii", "a/x_0001.nii", "b/x_0000.nii", "b/x_0001.nii", "t1/y_0000.nii", "t2/y_0001.nii"]
    paths = [fill(tmp_path, *files) / file for file in files]
    expected = {"a-x": paths[:2], "b-x": paths[2:4], "y": paths[4:]}
    assert given_scans([tmp_path], TWO)[0] == {name: Scan(tuple(images)) for name, images in expected.items()}


def test_two_files_of_one_channel_are_not_read_as_two_channels(tmp_path: Path) -> None:
    fill(tmp_path, "x_0000.nii", "x_0000.nii.gz")
    assert list(given_scans([tmp_path], TWO)[0]) == ["x_0000.nii", "x_0000.nii.gz"]


def test_a_list_gives_names_and_channels_in_the_order_of_the_network(tmp_path: Path) -> None:
    fill(tmp_path, "flair/a.nii", "t1/a.nii")
    (tmp_path / "list.csv").write_text("case,image:t2,image:t1\nfirst,flair/a.nii,t1/a.nii\n")
    images = (tmp_path / "flair/a.nii", tmp_path / "t1/a.nii")
    assert given_scans([tmp_path / "list.csv"], TWO)[0] == {"first": Scan(images, [1, 0])}
    with pytest.raises(SourceError, match=r"list\.csv: its channels are t2, t1, but the network needs T1, FLAIR"):
        given_scans([tmp_path / "list.csv"], ("T1", "FLAIR"))


def test_a_list_may_name_files_of_all_channels(tmp_path: Path) -> None:
    fill(tmp_path, "a.nii", "b.nii", list=["a.nii", {"image": "b.nii", "case": "second"}])
    scans, _ = given_scans([tmp_path / "list.json"], TWO)
    assert scans == {"a": Scan((tmp_path / "a.nii",)), "second": Scan((tmp_path / "b.nii",))}


def test_a_case_without_one_channel_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "a.nii", "b.nii", "c.nii")
    (tmp_path / "list.csv").write_text("case,image:T1,image:T2\nx,a.nii,b.nii\ny,c.nii,\n")
    scans, left_out = given_scans([tmp_path / "list.csv"], TWO)
    assert (list(scans), left_out) == (["x"], [str(tmp_path / "c.nii")])
    assert "c.nii: its case y lacks the channel T2, which the network needs." in capsys.readouterr().err


def test_names_of_scans_in_lists_must_be_unique(tmp_path: Path) -> None:
    fill(tmp_path, "a.nii", "b.nii", list=[{"image": "b.nii", "case": "a"}])
    with pytest.raises(SourceError, match="2 scans have the same name a; rename one of them in its list"):
        given_scans([tmp_path / "list.json", tmp_path / "a.nii"], ONE)


def test_label_maps_of_a_data_set_are_not_scans(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii", "imagesTs/b.nii", dataset=DATASET)
    assert list(given_scans([tmp_path], ONE)[0]) == ["a", "b"]


def test_files_of_a_folder_that_are_left_out_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "whole", voxels(9))
    write_series(tmp_path / "gap", voxels(3), dicom_files.places(4)[[0, 1, 3]], uid="1.2.5")
    scans, left_out = given_scans([tmp_path], ONE)
    assert scans == {"whole": Scan((tmp_path / "whole",))}
    assert [Path(file).parent for file in left_out] == [tmp_path / "gap"]
    assert "its slices lie 2.5 to 5 mm apart" in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_scans_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_series(tmp_path / "scout", voxels(9), t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    with pytest.raises(SourceError, match=r"scout: no scan was found here .*hold a localizer.*; give DICOM or"):
        given_scans([tmp_path / "scout"], ONE)

"""DICOM folders instead of files: one for each case or channel, and segmentations as label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_files import places, voxels, write_segmentation, write_series
from source_folders import DATASET, fill
from voxmim.errors import SourceError
from voxmim.images.volume import Volume, write_volume
from voxmim.sources import open_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare

LABELS = np.zeros((8, 7, 9), dtype=np.uint8)
LABELS[1:4, 1:3, 2:4], LABELS[5:7, 4:6, 3:5] = 1, 2
TWO = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}


def test_folders_of_series_are_cases_and_segmentations_their_label_maps(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", dataset=DATASET)
    for name in "ab":
        scan = write_series(source / "imagesTr" / name / "deep", voxels(9, seed=ord(name)), uid=f"1.2.{ord(name)}")
        (source / "labelsTr" / name).mkdir(parents=True)
        where = source / "labelsTr" / (f"{name}.dcm" if name == "a" else f"{name}/any.dcm")
        write_segmentation(where, scan, LABELS)
    (source / "labelsTr" / "a").rmdir()
    write_volume(source / "imagesTr" / "c.nii.gz", Volume(voxels(9)[None], np.eye(4)))
    opened = open_source(source)
    assert [(case.name, case.images[0].name) for case in opened.cases] == [("a", "a"), ("b", "b"), ("c", "c.nii.gz")]
    assert [case.label.name for case in opened.cases if case.label] == ["a.dcm", "any.dcm"]
    result = prepare(source, tmp_path / "store", intensity="ct", workers=1, quiet=True)
    assert (result.prepared, result.failed) == (3, [])
    counts = Store(tmp_path / "store").cases["b"].counts
    assert counts == {1: np.count_nonzero(LABELS == 1), 2: np.count_nonzero(LABELS == 2)}


@pytest.mark.parametrize("folders", [("a_0000", "a_0001"), ("a/T1", "a/T2")])
def test_a_case_may_have_a_folder_for_each_channel(tmp_path: Path, folders: tuple[str, str]) -> None:
    source = fill(tmp_path, "imagesTr/notes.txt", "imagesTr/b_0001.nii.gz", dataset=TWO)
    for index, folder in enumerate(folders):
        write_series(source / "imagesTr" / folder, voxels(9, seed=index), uid=f"1.2.{index}")
    a, b = open_source(source).cases
    assert (a.name, a.images, a.missing) == ("a", tuple(source / "imagesTr" / folder for folder in folders), ())
    assert (b.name, b.missing) == ("b", (0,))


def test_files_named_after_channels_belong_to_the_case_of_their_folder(tmp_path: Path) -> None:
    source = fill(tmp_path, "imagesTr/a/T1.nii.gz", "imagesTr/a/T2.mha", "imagesTr/a/seg.nii", "imagesTr/empty/x.txt",
                  "labelsTr/a.nii", dataset=TWO)  # fmt: skip
    (case,) = open_source(source).cases
    assert case.images == (source / "imagesTr/a/T1.nii.gz", source / "imagesTr/a/T2.mha")
    assert case.label == source / "labelsTr/a.nii"


def test_a_channel_folder_may_be_missing(tmp_path: Path) -> None:
    source = fill(tmp_path, dataset=TWO)
    write_series(source / "imagesTr" / "a" / "T2", voxels(9))
    (case,) = open_source(source).cases
    assert (case.name, case.images, case.missing) == ("a", (source / "imagesTr/a/T2",), (0,))


def test_skipped_series_are_reported_and_only_cases_without_a_valid_one_fail(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", dataset=DATASET)
    write_series(source / "imagesTr" / "a", voxels(9), uid="1.2.1")
    write_series(source / "imagesTr" / "a", voxels(1), uid="1.2.2", names=["scout"])
    write_series(source / "imagesTr" / "b", voxels(8), np.delete(places(9), 4, axis=0), uid="1.2.3")
    opened = open_source(source)
    assert [case.name for case in opened.cases] == ["a", "b"]
    (finding,) = opened.findings
    assert (finding.kind, finding.action) == ("dicom series", "left out")
    assert "it has one slice only" in finding.reason
    result = prepare(source, tmp_path / "store", intensity="ct", workers=1, quiet=True)
    assert finding in result.findings
    assert [name for name, _ in result.failed] == ["b"]


def test_slices_without_a_folder_of_their_own_are_refused(tmp_path: Path) -> None:
    source = fill(tmp_path, dataset=DATASET)
    write_series(source / "imagesTr", voxels(9))
    with pytest.raises(SourceError, match=r"000\.dcm: DICOM slices lie loose here; put those of each case in a folder"):
        open_source(source)

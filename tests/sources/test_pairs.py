"""Folders of scans next to folders of label maps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from source_folders import DATASET, fill, pairs, splits_of
from voxmim.sources import open_source


def test_the_spelling_of_the_original_dataset_json_is_read(tmp_path: Path) -> None:
    old = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "2": "oedema", "1": "core"}}
    source = open_source(fill(tmp_path / "brats", "imagesTr/a.nii.gz", dataset=old))
    assert (source.name, source.channels, source.labels) == ("brats", ("T1", "FLAIR"), {1: "core", 2: "oedema"})


def test_a_case_may_have_one_file_per_channel(tmp_path: Path) -> None:
    two = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}
    files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz"]
    a, b = open_source(fill(tmp_path, *files, dataset=two)).cases
    assert (a.name, [image.name for image in a.images]) == ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])
    assert (b.name, len(b.images)) == ("b", 1)
    assert a.missing == b.missing == ()


FOUR = {**DATASET, "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}


def test_files_of_some_channels_may_be_missing(tmp_path: Path) -> None:
    files = ["a_0000.nii", "a_0003.nii", "b_0002.nii.gz", "c.nii", *(f"d_000{channel}.nii" for channel in range(4))]
    source = open_source(fill(tmp_path, *(f"imagesTr/{file}" for file in files), "labelsTr/b.nii", dataset=FOUR))
    assert {case.name: case.missing for case in source.cases} == {"a": (1, 2), "b": (0, 1, 3), "c": (), "d": ()}
    assert [image.name for image in source.cases[0].images] == ["a_0000.nii", "a_0003.nii"]
    assert source.cases[1].label == tmp_path / "labelsTr" / "b.nii"


def test_a_case_with_ambiguous_channels_is_left_out(tmp_path: Path) -> None:
    files = [f"imagesTr/{name}.nii" for name in ("a", "a_0001", "b")]
    source = open_source(fill(tmp_path, *files, dataset=FOUR))
    assert [case.name for case in source.cases] == ["b"]
    (finding,) = source.findings
    assert "case a has 2 files (a.nii, a_0001.nii) for 4 channels; name them a_0000, a_0001" in finding.reason


def test_four_digits_at_the_end_of_a_name_are_a_channel_only_if_the_label_lacks_them(tmp_path: Path) -> None:
    numbered = fill(tmp_path / "numbered", "imagesTr/a_0000.nii", "labelsTr/a_0000.nii", dataset=DATASET)
    assert open_source(numbered).cases[0].name == "a_0000"
    nnunet = fill(tmp_path / "nnunet", "imagesTr/a_0000.nii", "labelsTr/a.nii", dataset=DATASET)
    case = open_source(nnunet).cases[0]
    assert (case.name, case.label) == ("a", nnunet / "labelsTr/a.nii")


def test_unlabelled_folders_give_unlabelled_cases(tmp_path: Path) -> None:
    files = ["imagesTs/t.nii", "more/m.nii", "extra_unlabelled/a000.nii", *pairs(1)]
    source = open_source(fill(tmp_path, *files, dataset={**DATASET, "unlabelled_folder": "more"}))
    unlabelled = dict.fromkeys(["extra_unlabelled-a000", "m", "t"], "unlabelled")
    assert splits_of(source) == {"a000": "train", **unlabelled}


def test_labelled_test_scans_form_the_test_split(tmp_path: Path) -> None:
    splits = splits_of(open_source(fill(tmp_path, *pairs(10), "imagesTs/t.nii", "labelsTs/t.nii", dataset=DATASET)))
    assert [name for name, split in splits.items() if split == "test"] == ["t"]
    assert Counter(splits.values()) == {"train": 8, "val": 2, "test": 1}


def test_a_label_map_without_a_scan_is_left_out(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *pairs(1), "labelsTr/b.nii", dataset=DATASET))
    assert [case.name for case in source.cases] == ["a000"]
    (finding,) = source.findings
    assert finding.reason.endswith("b.nii: this label map has no scan b in imagesTr; add the scan or rename it.")


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_images_and_labels_without_dataset_json_are_read(tmp_path: Path, folders: tuple[str, str]) -> None:
    images, labels = folders
    source = open_source(fill(tmp_path, f"{images}/a.nii", f"{images}/b.nii", f"{labels}/a.nii"))
    assert splits_of(source) == {"a": "train", "b": "unlabelled"}
    assert source.cases[0].label == tmp_path / labels / "a.nii"
    assert source.labels == {}


def test_one_of_two_files_of_the_same_name_is_used(tmp_path: Path) -> None:
    files = ["imagesTr/x.nii", "imagesTr/x.nii.gz", "labelsTr/x.nii.gz", "labelsTr/x.seg.nrrd"]
    source = open_source(fill(tmp_path, *files, dataset=DATASET))
    (case,) = source.cases
    assert (case.images, case.label) == ((tmp_path / files[0],), tmp_path / files[2])
    assert [Path(one.file).name for one in source.findings] == ["x.nii.gz", "x.seg.nrrd"]
    assert "x.nii has the same name and is used" in source.findings[0].reason


def test_a_segmentation_of_3d_slicer_is_the_label_map_of_its_scan(tmp_path: Path) -> None:
    (case,) = open_source(fill(tmp_path, "imagesTr/x.nii.gz", "labelsTr/x.seg.nrrd", dataset=DATASET)).cases
    assert case.label == tmp_path / "labelsTr/x.seg.nrrd"


def test_a_missing_unlabelled_folder_keeps_the_labelled_cases(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *pairs(1), dataset={**DATASET, "unlabelled_folder": "more"}))
    assert [case.name for case in source.cases] == ["a000"]
    (finding,) = source.findings
    assert f"the key unlabelled_folder of {tmp_path / 'dataset.json'} names this folder" in finding.reason

"""The layout of nnU-Net's raw datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_folders import fill, splits_of
from voxmim.errors import SourceError
from voxmim.sources import open_source
from voxmim.sources.source import ignored_value

DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".nii.gz"}
BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def scans(count: int, channels: int = 1) -> list[str]:
    images = [f"imagesTr/c{i}_{channel:04}.nii.gz" for i in range(count) for channel in range(channels)]
    return images + [f"labelsTr/c{i}.nii.gz" for i in range(count)]


def test_file_names_end_with_their_channel(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *scans(2), "imagesTs/t_0000.nii.gz", "imagesTr/u_0000.nrrd", dataset=DATASET))
    assert splits_of(source) == {"c0": "train", "c1": "train", "t": "unlabelled", "u": "unlabelled"}
    assert source.labels == {1: "liver", 2: "tumour"}
    assert source.cases[0].images == (tmp_path / "imagesTr/c0_0000.nii.gz",)
    assert source.cases[0].label == tmp_path / "labelsTr/c0.nii.gz"


def test_a_missing_channel_is_recorded(tmp_path: Path) -> None:
    two = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}
    path = fill(tmp_path, *scans(2, channels=2), dataset=two)
    (path / "imagesTr/c1_0000.nii.gz").unlink()
    assert [case.missing for case in open_source(path).cases] == [(), (0,)]


def test_labels_given_as_lists_are_regions(tmp_path: Path) -> None:
    source = open_source(
        fill(tmp_path, *scans(1), dataset={**DATASET, "labels": BRATS, "regions_class_order": [1, 2, 3]})
    )
    assert source.labels == {1: "label 1", 2: "label 2", 3: "enhancing"}
    assert list(source.regions.items()) == [("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,))]


def test_the_ignore_label_is_not_a_region(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *scans(1), dataset={**DATASET, "labels": {**BRATS, "ignore": 4}}))
    assert ignored_value(source.labels) == 4
    assert list(source.regions) == ["whole", "core", "enhancing"]


@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        ({"c0": ["livr"]}, "c0: 'livr' is none of the labels .* did you mean 'liver'"),
        ({"c9": ["liver"]}, '"annotated" names c9, which is no case; did you mean'),
        (["c0"], '"annotated" must map cases to lists of labels'),
        ({"c0": "liver"}, '"annotated" must map cases to lists of labels'),
    ],
)
def test_annotated_labels_must_exist_and_belong_to_cases(tmp_path: Path, annotated: object, message: str) -> None:
    dataset = {**DATASET, "labels": {"background": 0, "liver": 1}, "annotated": annotated}
    with pytest.raises(SourceError, match=rf"dataset\.json: .*{message}|{message}"):
        open_source(fill(tmp_path, *scans(1), dataset=dataset))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "ignore": [2]}, "not numbered by whole numbers"),
        ({"whole": [1, "two"]}, "a label must be a whole number or a list of them"),
        ({"whole": [[1]]}, "a label must be a whole number or a list of them"),
        ({"whole": []  , "core": 1}, "region 'whole' must be a list of one label value or more"),
        ([], '"labels" is missing'),
    ],
)  # fmt: skip
def test_invalid_labels_are_refused(tmp_path: Path, labels: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"dataset\.json: .*{message}"):
        open_source(fill(tmp_path, *scans(1), dataset={**DATASET, "labels": labels}))


def test_an_unlabelled_folder_is_read_as_in_the_decathlon(tmp_path: Path) -> None:
    path = fill(tmp_path, *scans(1), "more/m.nii.gz", dataset={**DATASET, "unlabelled_folder": "more"})
    assert splits_of(open_source(path)) == {"c0": "train", "m": "unlabelled"}


def test_a_dataset_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder imagesTr"):
        open_source(fill(tmp_path, dataset=DATASET))


def test_one_of_two_files_for_a_channel_is_used(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, *scans(1), "imagesTr/c0_0000.nrrd", dataset=DATASET))
    assert [image.name for case in source.cases for image in case.images] == ["c0_0000.nii.gz"]
    assert [Path(one.file).name for one in source.findings] == ["c0_0000.nrrd"]


def test_the_first_fold_gives_the_splits_and_labelled_images_ts_the_test_split(tmp_path: Path) -> None:
    folds = [{"train": ["c0", "c1"], "val": ["c2"]}, {"train": ["c1", "c2"], "val": ["c0"]}]
    files = [*scans(4), "imagesTs/t_0000.nii.gz", "labelsTs/t.nii.gz", "imagesTs/u_0000.nii.gz"]
    source = open_source(fill(tmp_path, *files, dataset=DATASET, splits_final=folds))
    assert splits_of(source) == {"c0": "train", "c1": "train", "c2": "val", "t": "test", "u": "unlabelled"}


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": []}, "a list of folds is expected"),
        ([], "a list of folds is expected"),
        ([{"train": ["c9"], "val": []}], "there is no scan for case 'c9' of 'train'; did you mean 'c0'"),
    ],
)
def test_invalid_folds_are_refused(tmp_path: Path, folds: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"splits_final\.json: {message}"):
        open_source(fill(tmp_path, *scans(1), dataset=DATASET, splits_final=folds))

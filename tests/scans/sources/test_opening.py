from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from voxmim.errors import SourceError
from voxmim.scans.sources import Source, channel_files, open_source

DATASET = {"name": "liver", "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}


def fill(path: Path, *files: str, **written: object) -> Path:
    """Make empty scans (no scan is read here) and JSON files, ``dataset=...`` for dataset.json."""
    path.mkdir(parents=True, exist_ok=True)
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    for name, content in written.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pairs(count: int) -> list[str]:
    return [f"{folder}/a{i:03}.nii.gz" for i in range(count) for folder in ("imagesTr", "labelsTr")]


def splits_of(source: Source) -> dict[str, str]:
    return {case.name: case.split for case in source.cases}


def test_a_decathlon_folder(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/b.nii", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/._a.nii.gz", dataset=DATASET)
    source = open_source(tmp_path)
    assert (source.path, source.name, source.channels) == (tmp_path, "liver", ("CT",))
    assert source.labels == {1: "liver", 2: "tumour"}
    a, b = source.cases
    assert (a.name, a.images, a.label) == ("a", (tmp_path / "imagesTr/a.nii.gz",), tmp_path / "labelsTr/a.nii.gz")
    assert (b.name, b.images, b.label, b.split) == ("b", (tmp_path / "imagesTr/b.nii",), None, "unlabelled")


def test_the_original_spelling_of_labels_and_channels(tmp_path: Path) -> None:
    old = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "2": "oedema", "1": "core"}}
    source = open_source(fill(tmp_path / "brats", "imagesTr/a.nii.gz", dataset=old))
    assert (source.name, source.channels, source.labels) == ("brats", ("T1", "FLAIR"), {1: "core", 2: "oedema"})


def test_regions_keep_their_order_and_may_overlap(tmp_path: Path) -> None:
    regions = {"whole": [2, 1], "tumour": [2], "all": [1, 2]}
    source = open_source(fill(tmp_path, *pairs(1), dataset={**DATASET, "regions": regions}))
    assert list(source.regions.items()) == [("whole", (2, 1)), ("tumour", (2,)), ("all", (1, 2))]
    assert open_source(fill(tmp_path, dataset=DATASET)).regions == {}


def test_one_file_per_channel(tmp_path: Path) -> None:
    two = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}
    files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz"]
    a, b = open_source(fill(tmp_path, *files, dataset=two)).cases
    assert (a.name, [image.name for image in a.images]) == ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])
    assert (b.name, len(b.images)) == ("b", 1)
    assert a.missing == b.missing == ()


FOUR = {**DATASET, "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}


def test_of_files_per_channel_some_may_be_missing(tmp_path: Path) -> None:
    files = ["a_0000.nii", "a_0003.nii", "b_0002.nii.gz", "c.nii", *(f"d_000{channel}.nii" for channel in range(4))]
    source = open_source(fill(tmp_path, *(f"imagesTr/{file}" for file in files), "labelsTr/b.nii", dataset=FOUR))
    assert {case.name: case.missing for case in source.cases} == {"a": (1, 2), "b": (0, 1, 3), "c": (), "d": ()}
    assert [image.name for image in source.cases[0].images] == ["a_0000.nii", "a_0003.nii"]
    assert source.cases[1].label == tmp_path / "labelsTr" / "b.nii"


@pytest.mark.parametrize("files", [("a.nii", "a_0001.nii"), ("a_0001.nii", "a_0001.nii.gz")])
def test_files_of_which_it_is_unclear_what_channel_they_are(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match=r"case a has 2 files \(.* for 4 channel\(s\); name them a_0000, a_0001"):
        open_source(fill(tmp_path, *(f"imagesTr/{file}" for file in files), dataset=FOUR))


def test_files_of_new_scans_are_put_together_by_their_numbers() -> None:
    names = ["b_0000.nii", "b_0001.nii", "a.nii.gz", "c_0001.nii", "d_7777.nii"]
    files = [Path("in", name) for name in names]
    found = channel_files(files, 2)
    assert found == {"b": tuple(files[:2]), "a": (files[2],), "c_0001": (files[3],), "d_7777": (files[4],)}
    assert list(channel_files(files, 1)) == [name.split(".")[0] for name in names]
    with pytest.raises(SourceError, match=r"in: scan b has 2 files \(b_0000\.nii, b_0001\.nii\) for 3 channels"):
        channel_files(files[:2], 3)


def test_four_digits_at_the_end_of_a_name_are_no_channel_unless_the_label_says_so(tmp_path: Path) -> None:
    numbered = fill(tmp_path / "numbered", "imagesTr/a_0000.nii", "labelsTr/a_0000.nii", dataset=DATASET)
    assert open_source(numbered).cases[0].name == "a_0000"
    nnunet = fill(tmp_path / "nnunet", "imagesTr/a_0000.nii", "labelsTr/a.nii", dataset=DATASET)
    case = open_source(nnunet).cases[0]
    assert (case.name, case.label) == ("a", nnunet / "labelsTr/a.nii")


def test_unlabelled_folders(tmp_path: Path) -> None:
    files = ["imagesTs/t.nii", "more/m.nii", "extra_unlabelled/a000.nii", *pairs(1)]
    source = open_source(fill(tmp_path, *files, dataset={**DATASET, "unlabelled_folder": "more"}))
    unlabelled = dict.fromkeys(["extra_unlabelled-a000", "m", "t"], "unlabelled")
    assert splits_of(source) == {"a000": "train", **unlabelled}


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (3, (3, 0, 0)), (4, (2, 1, 1)), (100, (60, 15, 25))])
def test_a_drawn_split(tmp_path: Path, count: int, expected: tuple[int, ...]) -> None:
    path = fill(tmp_path, *pairs(count), "imagesTr/x.nii", dataset=DATASET)
    found = splits_of(open_source(path, seed=1))
    counts = Counter(found.values())
    assert (counts["train"], counts["val"], counts["test"]) == expected
    assert found["x"] == "unlabelled"
    assert found == splits_of(open_source(path, seed=1))
    if count == 100:
        assert found != splits_of(open_source(path, seed=2))


def test_labelled_test_scans_stay_the_test_split(tmp_path: Path) -> None:
    found = splits_of(open_source(fill(tmp_path, *pairs(10), "imagesTs/t.nii", "labelsTs/t.nii", dataset=DATASET)))
    assert [name for name, split in found.items() if split == "test"] == ["t"]
    assert Counter(found.values()) == {"train": 8, "val": 2, "test": 1}


def test_a_split_file_is_followed_and_unlisted_cases_left_out(tmp_path: Path) -> None:
    files = ["imagesTs/t.nii", "extra_unlabelled/u.nii", "imagesTr/n.nii", *pairs(4)]
    lists = {"train": ["a000", "n"], "val": ["a002"], "test": ["t"]}
    fill(tmp_path, *files, dataset=DATASET, splits=lists)
    expected = {"a000": "train", "a002": "val", "n": "train", "t": "test", "u": "unlabelled"}
    assert splits_of(open_source(tmp_path)) == expected
    fill(tmp_path, splits={**lists, "unlabelled": ["a001"]})
    del expected["u"]
    assert splits_of(open_source(tmp_path)) == {**expected, "a001": "unlabelled"}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["a000", "a009"]}, "there is no scan for case 'a009' of 'train'; did you mean 'a00"),
        ({"training": []}, "'training' is no split .*did you mean 'train'"),
        ({"train": ["a000"], "val": ["a000"]}, "case 'a000' is listed twice"),
        ({"train": "a000"}, "'train' must be a list"),
        (["a000"], "a JSON object is expected"),
        ("{", "not valid JSON"),
    ],
)
def test_a_split_file_that_does_not_fit(tmp_path: Path, splits: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"splits\.json: .*{message}"):
        open_source(fill(tmp_path, *pairs(2), dataset=DATASET, splits=splits))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("{", "not valid JSON"),
        ([], "a JSON object is expected"),
        ({"labels": {}}, '"channel_names" is missing'),
        ({"channel_names": {}, "labels": {}}, '"channel_names" is missing'),
        ({"channel_names": {"0": "CT"}}, '"labels" is missing'),
        ({**DATASET, "labels": {"liver": [1, 2]}}, "not numbered by whole numbers"),
        ({**DATASET, "labels": {"liver": 1, "kidney": 1}}, "must be different whole numbers"),
        ({**DATASET, "labels": {"liver": 300}}, "whole numbers from 0 to 255"),
        ({**DATASET, "channel_names": {"red": "CT"}}, "not numbered by whole numbers"),
        ({**DATASET, "unlabelled_folder": "gone"}, "names the folder gone, which is missing"),
        ({**DATASET, "regions": [[1, 2]]}, '"regions" must map names to label values'),
        ({**DATASET, "regions": {"whole": []}}, "region 'whole' must be a list of one label value or more"),
        ({**DATASET, "regions": {"whole": 1}}, "region 'whole' must be a list"),
        ({**DATASET, "regions": {"whole": [1, 4]}}, "region 'whole' lists 4, but the labels are 1 liver, 2 tumour;"),
        ({**DATASET, "regions": {"whole": [0]}}, "region 'whole' lists 0, but"),
        ({**DATASET, "regions": {"whole": [True]}}, "region 'whole' lists True, but"),
        ({**DATASET, "regions": {"whole": ["liver"]}}, "region 'whole' lists 'liver', but"),
        ({**DATASET, "regions": {"whole": [[1]]}}, r"region 'whole' lists \[1\], but"),
        ({**DATASET, "regions": {"whole": [1, 2, 1]}}, "region 'whole' lists a label value twice"),
        ('{"regions": {"whole": [1], "whole": [2]}}', "the key 'whole' stands 2 times in one object"),
    ],
)
def test_a_dataset_file_that_does_not_fit(tmp_path: Path, dataset: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"dataset\.json: .*{message}"):
        open_source(fill(tmp_path, *pairs(2), dataset=dataset))


def test_a_dataset_file_without_scans(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder imagesTr"):
        open_source(fill(tmp_path, dataset=DATASET))


def test_a_label_map_without_scan(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"b\.nii: this label map has no scan in imagesTr"):
        open_source(fill(tmp_path, *pairs(1), "labelsTr/b.nii", dataset=DATASET))


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gone: there is no such folder"):
        open_source(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"there is no scan \(DICOM, \.nii, "):
        open_source(fill(tmp_path, "notes.txt"))


def test_any_folder_of_scans(tmp_path: Path) -> None:
    files = ["x.nii", "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/deep/y.nii", ".trash/z.nii", "notes.txt"]
    source = open_source(fill(tmp_path / "mine", *files))
    assert splits_of(source) == dict.fromkeys(["p1-t1", "p2-t1", "x", "y"], "unlabelled")
    assert (source.name, source.channels, source.labels) == ("mine", ("image",), {})


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_a_folder_of_images_and_labels_without_dataset_file(tmp_path: Path, folders: tuple[str, str]) -> None:
    images, labels = folders
    source = open_source(fill(tmp_path, f"{images}/a.nii", f"{images}/b.nii", f"{labels}/a.nii"))
    assert splits_of(source) == {"a": "train", "b": "unlabelled"}
    assert source.cases[0].label == tmp_path / labels / "a.nii"
    assert source.labels == {}


def test_two_scans_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="2 scans have the same name x"):
        open_source(fill(tmp_path / "flat", "x.nii", "x.nii.gz"))
    with pytest.raises(SourceError, match=r"case x has 2 files \(x\.nii, x\.nii\.gz\)"):
        open_source(fill(tmp_path / "paired", "imagesTr/x.nii", "imagesTr/x.nii.gz", dataset=DATASET))

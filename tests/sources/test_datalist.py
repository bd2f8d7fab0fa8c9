"""Lists of cases as CSV, as JSON, and in MONAI's format."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from source_folders import fill, splits_of
from voxmim.errors import SourceError
from voxmim.images.volume import Volume, write_volume
from voxmim.sources import Source, open_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    names = [f"{folder}/{name}.nii.gz" for folder in ("t1", "t2", "seg") for name in "abcd"]
    return fill(tmp_path, *names)


def listed(folder: Path, *lines: str) -> Source:
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return open_source(folder / "cases.csv")


def test_every_column_of_a_table_is_read(scans: Path) -> None:
    source = listed(scans, "case,image:T1,image:T2,label,split,group",
                    "one,t1/a.nii.gz,t2/a.nii.gz,seg/a.nii.gz,test,p1", "two,t1/b.nii.gz,,,,p2",
                    "three,t1/c.nii.gz,t2/c.nii.gz,seg/c.nii.gz,train,")  # fmt: skip
    assert (source.name, source.channels, source.path) == ("cases", ("T1", "T2"), scans / "cases.csv")
    one, three, two = source.cases
    assert one.images == (scans / "t1/a.nii.gz", scans / "t2/a.nii.gz")
    assert (one.label, one.split, one.group, one.missing) == (scans / "seg/a.nii.gz", "test", "p1", ())
    assert (two.label, two.split, two.group, two.missing) == (None, "unlabelled", "p2", (1,))
    assert (three.split, three.group) == ("train", "three")


def test_cases_without_names_are_named_after_their_files(scans: Path) -> None:
    source = listed(scans, "image", "t1/a.nii.gz", "t2/a.nii.gz", "", str(scans / "seg/b.nii.gz"))
    assert [case.name for case in source.cases] == ["b", "t1-a", "t2-a"]
    assert (source.channels, source.labels) == (("image",), {})


def test_a_table_written_by_a_spreadsheet_is_read(scans: Path) -> None:
    (scans / "cases.csv").write_bytes(b'\xef\xbb\xbfimage,group\r\n"t1/a.nii.gz","Smith, 2"\r\n')
    assert open_source(scans / "cases.csv").cases[0].group == "Smith, 2"


def test_drawn_splits_have_each_patient_in_one_split(scans: Path) -> None:
    rows = [f"{name}-{visit},t1/{name}.nii.gz,seg/{name}.nii.gz,{name}" for name in "abcd" for visit in (1, 2, 3)]
    splits = {(case.group, case.split) for case in listed(scans, "case,image,label,group", *rows).cases}
    assert len(splits) == 4
    assert {split for _, split in splits} == {"train", "val", "test"}


def test_given_splits_are_kept_even_with_a_patient_in_two(scans: Path) -> None:
    source = listed(scans, "image,split,group", "t1/a.nii.gz,train,p", "t1/b.nii.gz,test,p")
    assert splits_of(source) == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,lable", "t1/a.nii.gz,"], "'lable' is no column .*did you mean 'label'"),
        (["image,age", "t1/a.nii.gz,7"], "'age' is no column .*image:NAME of a channel"),
        (["image;label", "t1/a.nii.gz;x"], "'image;label' is no column"),
        (["image:T1,image:T1", "a,b"], "column 'image:T1' stands there twice"),
        (["image,image:T1", "t1/a.nii.gz,"], "both a column image and image:T1"),
        (["image", "t1/z.nii.gz"], "line 2 names t1/z.nii.gz, which is missing"),
        (["image,label", "t1/a.nii.gz,seg/z.nii.gz"], "line 2 names seg/z.nii.gz, which is missing"),
        (["image,label", ",seg/a.nii.gz"], "line 2 names 0 images for 1 channel"),
        (["case,label", "a,seg/a.nii.gz"], "line 2 names 0 images for 1 channel"),
        (["image,label", "t1/a.nii.gz"], "line 2 has 1 field for 2 columns"),
        (["image,split", "t1/a.nii.gz,tset"], "line 2: 'tset' is no split .*did you mean 'test'"),
        (["case,image", "../up,t1/a.nii.gz"], "line 2: the case '../up' cannot be the name of a file"),
        (["case,image", "x,t1/a.nii.gz", "x,t1/b.nii.gz"], "2 scans have the same name x"),
        (["image"], "it lists no case"),
        ([""], "it lists no case"),
        (['image,"'], "this is no table with commas"),
    ],
)
def test_an_invalid_table_is_refused(scans: Path, lines: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=rf"cases\.csv: .*{message}"):
        listed(scans, *lines)


def test_a_json_list_of_rows_is_read(scans: Path) -> None:
    rows = [{"case": "x", "image:T1": "t1/a.nii.gz", "image:T2": None, "group": 7}, {"image:T2": "t2/b.nii.gz"}]
    source = open_source(fill(scans, mine=rows) / "mine.json")
    assert [(case.name, case.missing, case.group) for case in source.cases] == [("b", (0,), "b"), ("x", (1,), "7")]


MONAI = {
    "name": "two", "channel_names": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "rim"}, "numTraining": 2,
    "training": [{"image": [f"t1/{n}.nii.gz", f"t2/{n}.nii.gz"], "label": f"seg/{n}.nii.gz"} for n in "ab"],
    "validation": [{"image": ["t1/c.nii.gz", "t2/c.nii.gz"], "label": "seg/c.nii.gz"}],
    "test": [{"image": ["t1/d.nii.gz", "t2/d.nii.gz"]}],
}  # fmt: skip


def test_a_monai_datalist_is_read(scans: Path) -> None:
    source = open_source(fill(scans, list=MONAI) / "list.json")
    assert (source.name, source.channels, source.labels) == ("two", ("T1", "T2"), {1: "rim"})
    assert splits_of(source) == {"a": "train", "b": "train", "c": "val", "d": "unlabelled"}
    assert source.cases[0].images == (scans / "t1/a.nii.gz", scans / "t2/a.nii.gz")


def test_folds_of_a_monai_datalist_are_read(scans: Path) -> None:
    folds = {"a": 1, "b": 0, "c": 2}
    rows = [{"image": f"t1/{n}.nii.gz", "label": f"seg/{n}.nii.gz", "fold": fold} for n, fold in folds.items()]
    source = open_source(fill(scans, list={"training": rows, "testing": ["t1/d.nii.gz"]}) / "list.json")
    assert splits_of(source) == {"a": "train", "b": "val", "c": "train", "d": "unlabelled"}
    assert source.channels == ("image",)


def test_the_dataset_json_of_a_decathlon_folder_is_read_as_a_list(scans: Path) -> None:
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "rim"},
            "training": [{"image": f"./t1/{n}.nii.gz", "label": f"./seg/{n}.nii.gz"} for n in "ab"],
            "test": ["./t1/c.nii.gz"]}  # fmt: skip
    source = open_source(fill(scans, dataset=described) / "dataset.json")
    assert splits_of(source) == {"a": "train", "b": "train", "c": "unlabelled"}
    assert source.channels == ("MRI",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ({"cases_": []}, 'a list of cases is expected, or an object with "training"'),
        (7, "a list of cases is expected"),
        ({"training": {}}, "'training' must be a list of cases"),
        ({"training": [[1]]}, "case 1 of 'training' must be an object with an image"),
        (
            {"training": [{"image": ["t1/a.nii.gz", "t2/a.nii.gz"]}, {"image": "t1/b.nii.gz", "lable": 1}]},
            "'lable' is no",
        ),
        ({**MONAI, "channel_names": {"0": "T1"}}, r"case 1 of 'training' names 2 images for 1 channel;"),
        ({**MONAI, "labels": {"rim": 300}}, "whole numbers from 0 to 255"),
        (
            {"channel_names": {"0": "T1"}, "training": [{"image:T2": "t2/a.nii.gz"}]},
            "its channels are T1, but its columns",
        ),
        ([{"image": []}], "names 0 images"),
        ([{"image": 5}], "names 5, which is missing"),
        ([{"image": "\0"}], "which is missing"),
        ([{"image": "x" * 999}], "which is missing"),
    ],
)
def test_invalid_json_is_refused(scans: Path, content: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"list\.json: .*{message}"):
        open_source(fill(scans, list=content) / "list.json")


PARTS = st.sampled_from(
    ["image", "label", "split", "case", "group", "image:T1", "t1/a.nii.gz", "train", ",", "\n", '"', "\0", "x"]
)
VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["t1/a.nii.gz", "train", "\0", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["training", "image", "image:T1", "label", "split", "case", "fold", "labels",
                                       "channel_names", "regions"]), inner, max_size=4),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(PARTS, max_size=20).map("".join), values=VALUES)
def test_any_list_is_read_or_refused_in_one_sentence(scans: Path, table: str, values: object) -> None:
    (scans / "cases.csv").write_text(table)
    (scans / "cases.json").write_text(json.dumps(values))
    for file in ("cases.csv", "cases.json"):
        with contextlib.suppress(SourceError):  # no other exception
            assert open_source(scans / file).cases


def test_patients_and_splits_in_the_store_follow_the_list(tmp_path: Path) -> None:
    for index, name in enumerate("ab"):
        voxels = np.random.default_rng(index).integers(0, 500, (1, 12, 11, 10)).astype(np.int16)
        write_volume(tmp_path / f"{name}.nii.gz", Volume(voxels, np.eye(4)))
    for first, split in (("p1", "train"), ("p2", "val")):
        (tmp_path / "cases.csv").write_text(f"image,group,split\na.nii.gz,{first},{split}\nb.nii.gz,p2,test\n")
        prepare(tmp_path / "cases.csv", tmp_path / "store", intensity="mr", workers=1, quiet=True)
        stored = {case.name: (case.group, case.split) for case in Store(tmp_path / "store").cases.values()}
        assert stored == {"a": (first, split), "b": ("p2", "test")}

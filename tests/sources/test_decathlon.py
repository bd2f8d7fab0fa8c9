"""The layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_folders import DATASET, fill, pairs
from voxmim.errors import SourceError
from voxmim.sources import open_source


def test_a_decathlon_folder_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "imagesTr/b.nii", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/._a.nii.gz", dataset=DATASET)
    source = open_source(tmp_path)
    assert (source.path, source.name, source.channels) == (tmp_path, "liver", ("CT",))
    assert source.labels == {1: "liver", 2: "tumour"}
    a, b = source.cases
    assert (a.name, a.images, a.label) == ("a", (tmp_path / "imagesTr/a.nii.gz",), tmp_path / "labelsTr/a.nii.gz")
    assert (b.name, b.images, b.label, b.split) == ("b", (tmp_path / "imagesTr/b.nii",), None, "unlabelled")


def test_regions_keep_their_order_and_may_overlap(tmp_path: Path) -> None:
    regions = {"whole": [2, 1], "tumour": [2], "all": [1, 2]}
    source = open_source(fill(tmp_path, *pairs(1), dataset={**DATASET, "regions": regions}))
    assert list(source.regions.items()) == [("whole", (2, 1)), ("tumour", (2,)), ("all", (1, 2))]
    assert open_source(fill(tmp_path, dataset=DATASET)).regions == {}


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
def test_an_invalid_dataset_json_is_refused(tmp_path: Path, dataset: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"dataset\.json: .*{message}"):
        open_source(fill(tmp_path, *pairs(2), dataset=dataset))


def test_a_dataset_json_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder imagesTr"):
        open_source(fill(tmp_path, dataset=DATASET))

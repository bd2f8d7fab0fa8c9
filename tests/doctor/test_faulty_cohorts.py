"""Faults that only show in comparison with the other scans of a source, each in its own source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dicom_files import places, write_series
from scan_files import AFFINE, SHAPE, add_pair, moved, scan, write, write_pairs
from voxmim.doctor.inspect import inspect_source
from voxmim.images.formats.dicom import find_series


def findings(source: Path) -> dict[str, set[tuple[str, str]]]:
    """Kind and action of the findings of each file, by file name."""
    by_file: dict[str, set[tuple[str, str]]] = {}
    for finding in inspect_source(source, workers=1).findings:
        by_file.setdefault(Path(finding.file).name, set()).add((finding.kind, finding.action))
    return by_file


def test_a_duplicate_in_another_format_is_left_out(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    write(source / "imagesTr" / "copied.mha", scan(1)[0].astype(np.float32))
    assert findings(source) == {"copied.mha": {("duplicate", "left out")}}


def test_a_scan_with_another_voxel_size_is_reported(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 6)
    add_pair(source, "coarse", *scan(9), affine=AFFINE @ np.diag([1, 1, 8, 1]))
    assert findings(source) == {"coarse.nii.gz": {("spacing outlier", "used")}}


@pytest.mark.parametrize("how", ["mirrored", "sides exchanged"])
def test_flipped_labels_are_reported(tmp_path: Path, how: str) -> None:
    source = write_pairs(tmp_path, 8)
    image, label = scan(9)
    add_pair(source, "flipped", image, label[::-1] if how == "mirrored" else np.array([0, 2, 1], np.uint8)[label])
    assert findings(source) == {"flipped.nii.gz": {("flipped label", "used")}}


def test_a_patient_in_two_splits_is_reported(tmp_path: Path) -> None:
    rows = ["case,image,label,split,group"]
    for index, (split, group) in enumerate((("train", "p"), ("test", "p"), ("train", "q"), ("test", "r"))):
        image, label = scan(index)
        write(tmp_path / f"image_{index}.nii.gz", image)
        write(tmp_path / f"label_{index}.nii.gz", label)
        rows.append(f"case_{index},image_{index}.nii.gz,label_{index}.nii.gz,{split},{group}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    in_both = {("patient in two splits", "used")}
    assert findings(tmp_path / "list.csv") == {"image_0.nii.gz": in_both, "image_1.nii.gz": in_both}


@pytest.fixture
def channels(tmp_path: Path) -> Path:
    """A source with two channels."""
    dataset = {"channel_names": {"0": "CT early", "1": "CT late"}, "labels": {"background": 0}}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    for channel in (0, 1):
        write(tmp_path / "imagesTr" / f"both_000{channel}.nii.gz", scan(channel)[0])
    return tmp_path


def test_a_case_without_one_channel_is_reported(channels: Path) -> None:
    write(channels / "imagesTr" / "lacking_0001.nii.gz", scan(5)[0])
    assert findings(channels) == {"lacking_0001.nii.gz": {("channels", "used")}}


def test_channels_on_different_grids_are_left_out(channels: Path) -> None:
    for channel, affine in enumerate((AFFINE, moved(5.0))):
        write(channels / "imagesTr" / f"shifted_000{channel}.nii.gz", scan(5 + channel)[0], affine)
    assert findings(channels) == {"shifted_0001.nii.gz": {("other grid", "left out")}}


def test_a_series_with_a_gap_and_a_localizer_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "good", scan(1)[0], uid="1.2.5")
    write_series(tmp_path / "gap", scan(2)[0], places(SHAPE[2] + 3)[[*range(8), *range(11, 23)]], uid="1.2.6")
    write_series(tmp_path / "survey", scan(3)[0][..., :2], uid="1.2.8", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    assert sum(series.fault is not None for series in find_series(tmp_path)) == 2
    by_file = findings(tmp_path)
    assert sorted(by_file.values(), key=str) == [{("dicom series", "left out")}, {("no scan", "left out")}]

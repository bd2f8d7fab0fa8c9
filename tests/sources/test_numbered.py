"""Channels distinguished by numbers."""

from __future__ import annotations

from pathlib import Path

from voxmim.sources import channel_files


def test_files_of_new_scans_are_grouped_by_channel_numbers() -> None:
    names = ["b_0000.nii", "b_0001.nii", "a.nii.gz", "c_0001.nii", "d_7777.nii"]
    files = [Path("in", name) for name in names]
    groups = channel_files(files, 2, Path("in"))
    assert groups == {"b": tuple(files[:2]), "a": (files[2],), "c_0001": (files[3],), "d_7777": (files[4],)}
    assert list(channel_files(files, 1, Path("in"))) == [name.split(".")[0] for name in names]

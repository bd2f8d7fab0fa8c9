"""Any folder of scans."""

from __future__ import annotations

from pathlib import Path

from source_folders import fill, splits_of
from voxmim.sources import open_source


def test_any_folder_of_scans(tmp_path: Path) -> None:
    files = ["x.nii", "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/deep/y.nii", ".trash/z.nii", "notes.txt"]
    source = open_source(fill(tmp_path / "mine", *files))
    assert splits_of(source) == dict.fromkeys(["p1-t1", "p2-t1", "x", "y"], "unlabelled")
    assert (source.name, source.channels, source.labels) == ("mine", ("image",), {})

"""Detecting the kind of a source, and paths that are not sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_folders import fill
from voxmim.errors import SourceError
from voxmim.sources import open_source


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gone: there is no such folder"):
        open_source(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"there is no scan \(DICOM, \.nii, "):
        open_source(fill(tmp_path, "notes.txt"))


def test_a_file_that_is_not_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"a\.nii: a folder of scans is expected, or a list of them \(\.csv, \.json\)"
    ):
        open_source(fill(tmp_path, "a.nii") / "a.nii")


def test_a_case_without_a_patient_is_its_own_patient(tmp_path: Path) -> None:
    assert [case.group for case in open_source(fill(tmp_path, "a.nii", "b.nii")).cases] == ["a", "b"]

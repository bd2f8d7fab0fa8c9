"""DICOM series as a source: valid series become cases, and faults of the others are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_files import PATIENT, places, voxels, write_series
from voxmim.errors import SourceError
from voxmim.images.volume import Volume, write_volume
from voxmim.sources import open_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two valid series in one folder, one with a gap in another, and a NIfTI file."""
    folder = tmp_path / "archive"
    for number in (1, 2):
        write_series(folder / "a", voxels(9, seed=number), uid=f"1.2.3.{number}",
                     names=[f"{number}-{i}" for i in range(9)])  # fmt: skip
    write_series(folder / "b", voxels(8), positions=np.delete(places(9), 4, axis=0), uid="1.2.3.9")
    write_volume(folder / "c" / "liver.nii.gz", Volume(voxels(10)[None], np.eye(4)))
    return folder


def test_each_valid_series_is_a_case_and_the_others_are_reported(mixed: Path, tmp_path: Path) -> None:
    source = open_source(mixed)
    names = [case.name for case in source.cases]
    assert len(names) == 3
    assert "liver" in names
    assert all(name.startswith("CT-") for name in names if name != "liver")
    assert len(source.findings) == 1
    assert str(mixed / "b") in source.findings[0].reason

    result = prepare(mixed, tmp_path / "store", (1.0, 1.0, 2.5), "ct", workers=1)
    assert (result.prepared, result.failed) == (3, [])
    assert source.findings[0] in result.findings
    store = Store(tmp_path / "store")
    assert [case.split for case in store.cases.values()] == ["unlabelled"] * 3
    assert store.image(next(name for name in names if name != "liver")).std() > 0


def test_the_name_of_the_patient_is_not_in_the_store(
    mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(mixed, tmp_path / "store", (2.0, 2.0, 2.5), "ct", workers=1)
    output = "".join(capfd.readouterr())
    assert PATIENT.split("^")[0] not in output
    for file in (tmp_path / "store").rglob("*"):
        assert PATIENT.split("^")[0] not in file.name
        assert file.is_dir() or PATIENT.split("^")[0].encode() not in file.read_bytes()


def test_a_folder_of_faulty_series_is_refused_with_the_reasons(tmp_path: Path) -> None:
    write_series(tmp_path / "b", voxels(8), positions=np.delete(places(9), 4, axis=0))
    with pytest.raises(SourceError, match=r"there is no scan \(DICOM, .*\) in this folder \(.*\); check the path"):
        open_source(tmp_path)

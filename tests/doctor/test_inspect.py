"""The inspection of a source: each file is read once, in parallel, and no patient name is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_files import PATIENT, voxels, write_series
from scan_files import AFFINE, reorient, scan, write
from voxmim.doctor import inspect as module
from voxmim.doctor.inspect import inspect_source
from voxmim.images.image_file import ImageFile
from voxmim.images.volume import read_volume

Maker = Callable[..., Path]


def test_the_fingerprint_agrees_with_a_plain_reference(tmp_path: Path) -> None:
    scans = [scan(seed) for seed in range(3)]
    for index, ((image, label), axes) in enumerate(zip(scans, ("RAS", "RAS", "LPS"), strict=True)):
        write(tmp_path / "imagesTr" / f"{index}.nii.gz", *reorient(image, AFFINE, axes))
        write(tmp_path / "labelsTr" / f"{index}.nii.gz", *reorient(label, AFFINE, axes))
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"bone": 1, "fat": 2}}))
    inspection = inspect_source(tmp_path, workers=1)
    fingerprint = inspection.fingerprint()
    assert (inspection.findings, inspection.sound) == ([], True)
    assert (fingerprint["cases"], fingerprint["labelled"], fingerprint["intensity"], fingerprint["channels"]) == (
        3,
        3,
        "ct",
        ["CT"],
    )
    assert fingerprint["orientations"] == {"RAS": 2, "LPS": 1}
    assert [part["median"] for part in fingerprint["spacing_mm"]] == [1.0, 1.2, 1.5]
    assert [part["max"] for part in fingerprint["shape"]] == [24, 22, 20]
    medians = [np.median(image) for image, _ in scans]
    assert fingerprint["intensity_percentiles"]["CT"]["50"]["min"] == pytest.approx(min(medians))
    volumes = [np.sum(label == 2) * 1.8 / 1000 for _, label in scans]
    assert fingerprint["label_volumes_ml"]["fat"] == pytest.approx(
        {"cases": 3, "min": min(volumes), "median": np.median(volumes), "max": max(volumes)}, rel=1e-4
    )


def test_each_file_is_read_once(tiny_source: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxmim.doctor import reading

    read: list[str] = []
    real = reading.open_image

    def count(path: Path) -> ImageFile:
        read.append(str(path))
        return real(path)

    monkeypatch.setattr(reading, "open_image", count)
    inspection = inspect_source(tiny_source(cases=3, unlabelled=1), workers=1)
    assert sorted(read) == inspection.files
    assert len(read) == 7


def test_several_processes_give_the_same_findings(tiny_source: Maker) -> None:
    source = tiny_source(cases=4)
    (source / "imagesTr" / "case_2.nii.gz").write_bytes(b"junk")
    progress: list[tuple[int, int]] = []
    alone = inspect_source(source, workers=1, on_case=lambda *done: progress.append(done))
    together = inspect_source(source, workers=2)
    assert together.as_dict() == alone.as_dict()
    assert progress == [(n, 4) for n in range(1, 5)]
    assert not alone.sound
    assert list(alone.facts) == ["case_0", "case_1", "case_3"]


def test_a_limited_number_of_slices_through_the_labels_is_kept(
    tiny_source: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SLICES", 3)
    source = tiny_source(cases=5)
    slices = inspect_source(source, workers=1).slices
    assert list(slices) == ["case_0", "case_2", "case_4"]
    image, label = (read_volume(source / part / "case_2.nii.gz").array[0] for part in ("imagesTr", "labelsTr"))
    middle = int(np.median(np.flatnonzero(label.any(axis=(0, 1)))))
    np.testing.assert_array_equal(slices["case_2"].image, image[:, :, middle])
    np.testing.assert_array_equal(slices["case_2"].label, label[:, :, middle])
    assert slices["case_2"].spacing == (1.0, 1.0)


def test_no_patient_name_is_reported(tmp_path: Path) -> None:
    from voxmim.report.inspection import inspection_page

    write_series(tmp_path / "source" / "a", voxels(12))
    write_series(tmp_path / "source" / "b", voxels(2), uid="1.2.9", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    inspection = inspect_source(tmp_path / "source", workers=1)
    assert [finding.kind for finding in inspection.findings] == ["tiny", "no scan"]
    assert inspection.sound
    inspection_page(tmp_path / "page.html", inspection)
    for text in (json.dumps(inspection.as_dict()), (tmp_path / "page.html").read_text()):
        assert not any(part in text for part in PATIENT.split("^"))

"""One case: all its faults are reported at once, and its valid parts are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scan_files import AFFINE, OBLIQUE, reorient, scan, write
from voxmim.doctor import reading as module
from voxmim.doctor.judge import Judged, judge_case
from voxmim.images.image_file import ImageFile
from voxmim.sources import SourceCase

IMAGE, LABEL = scan(0)


def judged(folder: Path, image: np.ndarray, label: np.ndarray, affine: np.ndarray = AFFINE) -> Judged:
    files = write(folder / "image.nii.gz", image, AFFINE), write(folder / "label.nii.gz", label, affine)
    return judge_case(SourceCase("case", (files[0],), files[1], "train"), ("CT",), (1, 2))


def kinds(result: Judged) -> list[tuple[str, str, str]]:
    return [(Path(finding.file).name, finding.kind, finding.action) for finding in result.findings]


def test_a_valid_case_has_no_finding_and_keeps_its_voxels(tmp_path: Path) -> None:
    result = judged(tmp_path, IMAGE, LABEL)
    assert result.findings == ()
    assert result.image is not None
    np.testing.assert_array_equal(result.image.array[0], IMAGE)
    np.testing.assert_array_equal(result.label, LABEL)
    assert result.facts is not None
    assert set(result.facts.labels) == {1, 2}


def test_both_faults_of_a_label_map_are_reported_and_the_scan_is_kept(tmp_path: Path) -> None:
    result = judged(tmp_path, IMAGE, np.where(LABEL == 2, 9, LABEL)[:, 1:].astype(np.uint8))
    assert kinds(result) == [("label.nii.gz", kind, "left out") for kind in ("other grid", "unknown label")]
    assert result.image is not None
    assert result.label is None
    assert result.facts is not None
    assert result.facts.labels == {}


def test_the_label_map_of_a_scan_that_is_left_out_is_checked_too(tmp_path: Path) -> None:
    result = judged(tmp_path, np.zeros_like(IMAGE), LABEL * np.float32(0.3), OBLIQUE)
    assert kinds(result) == [("image.nii.gz", "constant", "left out"), ("label.nii.gz", "not integers", "left out")]
    assert (result.image, result.label, result.facts) == (None, None, None)


def test_a_label_map_with_other_axes_is_reoriented_to_its_scan(tmp_path: Path) -> None:
    array, affine = reorient(LABEL, AFFINE, "SPL")
    result = judged(tmp_path, IMAGE, array, affine)
    assert kinds(result) == [("label.nii.gz", "other axes", "repaired")]
    np.testing.assert_array_equal(result.label, LABEL)


def test_channels_on_another_grid_are_left_out_or_interpolated(tmp_path: Path) -> None:
    files = tuple(write(tmp_path / f"{i}.nii.gz", IMAGE, affine) for i, affine in enumerate((AFFINE, OBLIQUE)))
    case = SourceCase("case", files, None, "train")
    assert kinds(judge_case(case, ("a", "b"))) == [("1.nii.gz", "other grid", "left out")]
    result = judge_case(case, ("a", "b"), match=True)
    assert kinds(result) == [("1.nii.gz", "other grid", "repaired")]
    assert result.image is not None
    assert result.image.array.shape == (2, *IMAGE.shape)
    (finding,) = judge_case(case, ("a", "b", "c")).findings
    assert (finding.kind, finding.action) == ("channels", "left out")


def test_a_huge_scan_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VOXELS", IMAGE.size - 1)
    monkeypatch.setattr(ImageFile, "read", lambda *_: pytest.fail("it was read"))
    file = write(tmp_path / "image.nii.gz", IMAGE, AFFINE)
    assert kinds(judge_case(SourceCase("case", (file,), None), ("CT",))) == [("image.nii.gz", "huge", "left out")]


@pytest.mark.parametrize("error", [MemoryError(), OSError("gone"), ValueError("odd bytes")])
def test_a_read_error_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    file = write(tmp_path / "image.nii.gz", IMAGE, AFFINE)
    monkeypatch.setattr(module, "open_image", fail)
    result = judge_case(SourceCase("case", (file,), None), ("CT",))
    assert kinds(result) == [("image.nii.gz", "unreadable", "left out")]
    assert result.findings[0].reason.startswith(f"{file}: it could not be read")

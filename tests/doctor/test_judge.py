"""One case at a time: all that is wrong with it is reported at once, and what is good of it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scan_files import AFFINE, OBLIQUE, scan, turned, write
from voxmim.doctor import reading as module
from voxmim.doctor.judge import Judged, judge_case
from voxmim.images.image_file import ImageFile
from voxmim.sources import SourceCase

IMAGE, LABEL = scan(0)


def judged(folder: Path, image: np.ndarray, label: np.ndarray, affine: np.ndarray = AFFINE) -> Judged:
    files = write(folder / "image.nii.gz", image, AFFINE), write(folder / "label.nii.gz", label, affine)
    return judge_case(SourceCase("case", (files[0],), files[1], "train"), ("CT",), (1, 2))


def kinds(found: Judged) -> list[tuple[str, str, str]]:
    return [(Path(one.file).name, one.kind, one.action) for one in found.findings]


def test_a_good_case_has_no_finding_and_keeps_its_voxels(tmp_path: Path) -> None:
    found = judged(tmp_path, IMAGE, LABEL)
    assert found.findings == ()
    assert found.image is not None
    np.testing.assert_array_equal(found.image.array[0], IMAGE)
    np.testing.assert_array_equal(found.label, LABEL)
    assert found.facts is not None
    assert set(found.facts.labels) == {1, 2}


def test_both_faults_of_a_label_map_are_reported_and_the_scan_is_kept(tmp_path: Path) -> None:
    found = judged(tmp_path, IMAGE, np.where(LABEL == 2, 9, LABEL)[:, 1:].astype(np.uint8))
    assert kinds(found) == [("label.nii.gz", kind, "left out") for kind in ("other grid", "unknown label")]
    assert found.image is not None
    assert found.label is None
    assert found.facts is not None
    assert found.facts.labels == {}


def test_the_label_map_of_a_scan_that_is_left_out_is_judged_too(tmp_path: Path) -> None:
    found = judged(tmp_path, np.zeros_like(IMAGE), LABEL * np.float32(0.3), OBLIQUE)
    assert kinds(found) == [("image.nii.gz", "constant", "left out"), ("label.nii.gz", "not integers", "left out")]
    assert (found.image, found.label, found.facts) == (None, None, None)


def test_a_label_map_of_other_axes_is_put_on_its_scan(tmp_path: Path) -> None:
    array, affine = turned(LABEL, AFFINE, "SPL")
    found = judged(tmp_path, IMAGE, array, affine)
    assert kinds(found) == [("label.nii.gz", "other axes", "repaired")]
    np.testing.assert_array_equal(found.label, LABEL)


def test_channels_of_another_grid_are_left_out_or_interpolated(tmp_path: Path) -> None:
    files = tuple(write(tmp_path / f"{i}.nii.gz", IMAGE, affine) for i, affine in enumerate((AFFINE, OBLIQUE)))
    case = SourceCase("case", files, None, "train")
    assert kinds(judge_case(case, ("a", "b"))) == [("1.nii.gz", "other grid", "left out")]
    found = judge_case(case, ("a", "b"), match=True)
    assert kinds(found) == [("1.nii.gz", "other grid", "repaired")]
    assert found.image is not None
    assert found.image.array.shape == (2, *IMAGE.shape)
    (finding,) = judge_case(case, ("a", "b", "c")).findings
    assert (finding.kind, finding.action) == ("channels", "left out")


def test_a_huge_scan_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VOXELS", IMAGE.size - 1)
    monkeypatch.setattr(ImageFile, "read", lambda *_: pytest.fail("it was read"))
    file = write(tmp_path / "image.nii.gz", IMAGE, AFFINE)
    assert kinds(judge_case(SourceCase("case", (file,), None), ("CT",))) == [("image.nii.gz", "huge", "left out")]


@pytest.mark.parametrize("error", [MemoryError(), OSError("gone"), ValueError("odd bytes")])
def test_a_read_failure_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    file = write(tmp_path / "image.nii.gz", IMAGE, AFFINE)
    monkeypatch.setattr(module, "open_image", fail)
    found = judge_case(SourceCase("case", (file,), None), ("CT",))
    assert kinds(found) == [("image.nii.gz", "unreadable", "left out")]
    assert found.findings[0].reason.startswith(f"{file}: it could not be read")

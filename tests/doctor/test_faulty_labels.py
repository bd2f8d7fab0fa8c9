"""One faulty label map among valid ones: the fault is found, and the scan is kept with or without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scan_files import AFFINE, add_pair, cut, moved, reorient, scan, write, write_pairs
from voxmim.doctor.inspect import Inspection, inspect_source


def inspected(source: Path, label_file: Path) -> tuple[Inspection, list[tuple[str, str]]]:
    """The inspection, with kind and action of each finding, which must all be about the label map."""
    inspection = inspect_source(source, workers=1)
    assert {finding.file for finding in inspection.findings} == {str(label_file)}
    assert set(inspection.facts) == {"good_0", "good_1", "odd"}
    return inspection, [(finding.kind, finding.action) for finding in inspection.findings]


VALUES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, str]] = {
    "background only": (np.zeros_like, "empty label", "used"),
    "a value that is not listed": (lambda a: np.where(a == 2, 9, a).astype(np.uint8), "unknown label", "left out"),
    "fractions": (lambda a: a * np.float32(0.5), "not integers", "left out"),
    "nearly whole numbers": (lambda a: a * np.float32(1.0001), "not integers", "repaired"),
    "another shape": (lambda a: a[:, 1:], "other grid", "left out"),
}


@pytest.mark.parametrize("fault", VALUES)
def test_wrong_label_values_are_found(tmp_path: Path, fault: str) -> None:
    change, kind, action = VALUES[fault]
    source = write_pairs(tmp_path, 2)
    image, label = scan(9)
    _, file = add_pair(source, "odd", image, change(label))
    inspection, findings = inspected(source, file)
    assert findings == [(kind, action)]
    assert bool(inspection.facts["odd"].labels) == (fault == "nearly whole numbers")


@pytest.mark.parametrize(
    ("affine", "action"),
    [(moved(3.0), "left out"), (moved(0.1), "repaired"), (AFFINE @ np.diag([-1, 1, 1, 1]), "left out")],
    ids=["elsewhere", "rounded", "mirrored"],
)
def test_a_header_that_differs_from_the_scans_is_found(tmp_path: Path, affine: np.ndarray, action: str) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9), label_affine=affine)
    _, findings = inspected(source, file)
    assert findings == [("other grid", action)]


@pytest.mark.parametrize(
    ("damage", "kind"), [(lambda file: file.write_bytes(b"no label map"), "unreadable"), (cut, "cut off")]
)
def test_an_unreadable_label_map_is_left_out(tmp_path: Path, damage: Callable[[Path], object], kind: str) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9))
    damage(file)
    _, findings = inspected(source, file)
    assert findings == [(kind, "left out")]


def test_a_label_map_with_other_axes_is_reoriented(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9))
    write(file, *reorient(scan(9)[1], AFFINE, "LPS"))
    inspection, findings = inspected(source, file)
    assert findings == [("other axes", "repaired")]
    assert set(inspection.facts["odd"].labels) == {1, 2}


def test_a_rare_label_is_reported_if_no_labels_are_listed(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    (source / "dataset.json").unlink()
    image, label = scan(9)
    _, file = add_pair(source, "odd", image, np.where(label == 2, 7, label).astype(np.uint8))
    _, findings = inspected(source, file)
    assert findings == [("rare label", "used")]

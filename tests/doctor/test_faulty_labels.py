"""One faulty label map among good ones: the fault is found, and its scan is kept with or without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scan_files import AFFINE, add_pair, cut, moved, scan, turned, write, write_pairs
from voxmim.doctor.inspect import Inspection, inspect_source


def inspected(source: Path, label_file: Path) -> tuple[Inspection, list[tuple[str, str]]]:
    """The inspection, and kind and action of each finding, all of which are on the label map."""
    found = inspect_source(source, workers=1)
    assert {finding.file for finding in found.findings} == {str(label_file)}
    assert set(found.facts) == {"good_0", "good_1", "odd"}
    return found, [(finding.kind, finding.action) for finding in found.findings]


VALUES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, str]] = {
    "background only": (np.zeros_like, "empty label", "used"),
    "a value that is not listed": (lambda a: np.where(a == 2, 9, a).astype(np.uint8), "unknown label", "left out"),
    "fractions": (lambda a: a * np.float32(0.5), "not integers", "left out"),
    "nearly whole numbers": (lambda a: a * np.float32(1.0001), "not integers", "repaired"),
    "another shape": (lambda a: a[:, 1:], "other grid", "left out"),
}


@pytest.mark.parametrize("fault", VALUES)
def test_values_that_are_wrong(tmp_path: Path, fault: str) -> None:
    change, kind, action = VALUES[fault]
    source = write_pairs(tmp_path, 2)
    image, label = scan(9)
    _, file = add_pair(source, "odd", image, change(label))
    found, findings = inspected(source, file)
    assert findings == [(kind, action)]
    assert bool(found.facts["odd"].labels) == (fault == "nearly whole numbers")


@pytest.mark.parametrize(
    ("affine", "action"),
    [(moved(3.0), "left out"), (moved(0.1), "repaired"), (AFFINE @ np.diag([-1, 1, 1, 1]), "left out")],
    ids=["elsewhere", "rounded", "mirrored"],
)
def test_a_header_that_is_not_its_scans(tmp_path: Path, affine: np.ndarray, action: str) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9), label_affine=affine)
    _, findings = inspected(source, file)
    assert findings == [("other grid", action)]


@pytest.mark.parametrize(
    ("harm", "kind"), [(lambda file: file.write_bytes(b"no label map"), "unreadable"), (cut, "cut off")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, harm: Callable[[Path], object], kind: str) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9))
    harm(file)
    _, findings = inspected(source, file)
    assert findings == [(kind, "left out")]


def test_axes_in_another_order_are_turned(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    _, file = add_pair(source, "odd", *scan(9))
    write(file, *turned(scan(9)[1], AFFINE, "LPS"))
    found, findings = inspected(source, file)
    assert findings == [("other axes", "repaired")]
    assert set(found.facts["odd"].labels) == {1, 2}


def test_a_value_that_no_other_case_has_where_none_are_listed(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 2)
    (source / "dataset.json").unlink()
    image, label = scan(9)
    _, file = add_pair(source, "odd", image, np.where(label == 2, 7, label).astype(np.uint8))
    _, findings = inspected(source, file)
    assert findings == [("rare label", "used")]

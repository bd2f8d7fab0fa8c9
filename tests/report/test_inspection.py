"""The page of an inspection: findings first, those in doubt before the others; pictures of the scans."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.test_page import Reader
from scan_files import AFFINE, scan, write
from voxmim.doctor.inspect import Inspection, Slice, inspect_source
from voxmim.report.contact import CELL, GAP, NAME, contact_sheet
from voxmim.report.inspection import finding_rows, inspection_page, verdict


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """Six cases, of which one has a mirrored label map, one an empty one, and one an unreadable scan."""
    folder = tmp_path_factory.mktemp("source")
    for index in range(7):
        image, label = scan(index)
        label = label[::-1] if index == 2 else np.zeros_like(label) if index == 3 else label
        file = write(folder / "imagesTr" / f"case_{index}.nii.gz", image, AFFINE)
        write(folder / "labelsTr" / f"case_{index}.nii.gz", label, AFFINE)
    file.write_bytes(b"junk")
    return inspect_source(folder, workers=1)


def test_the_most_severe_findings_come_first(inspection: Inspection) -> None:
    rows = finding_rows(inspection)
    assert [(kind, file, action) for kind, file, _, action in rows] == [
        ("flipped label", "labelsTr/case_2.nii.gz", "used, in doubt"),
        ("unreadable", "imagesTr/case_6.nii.gz", "left out"),
        ("empty label", "labelsTr/case_3.nii.gz", "used"),
    ]
    assert rows[2][2] == "the label map is empty."
    assert verdict(inspection) == (
        "3 findings in 14 files: 1 left out, 2 used. In doubt: 1; training waits until they are resolved."
    )


def test_the_page_shows_the_whole_inspection(inspection: Inspection, tmp_path: Path) -> None:
    inspection_page(tmp_path / "page.html", inspection)
    page = Reader((tmp_path / "page.html").read_text())
    assert page.headings == [
        "Findings and fingerprint", "Distributions", "Contact sheet", "Source", "Reproduce",
    ]  # fmt: skip
    text = " ".join(page.texts)
    for result in ("6 of 7", "flipped label", "voxel size, left to right (mm)", "Volume of label 1", "RAS (6)"):
        assert result in text
    assert len(page.with_name("img")) == 1
    fetched = [value for _, attributes in page.tags for key, value in attributes.items() if not key.startswith("xmlns")]
    assert not any(value and value.startswith("http") for value in fetched)


def test_the_page_of_a_source_without_findings_says_so(tmp_path: Path) -> None:
    write(tmp_path / "source" / "a.nii.gz", scan(0)[0], AFFINE)
    inspection = inspect_source(tmp_path / "source", workers=1)
    assert verdict(inspection) == "Nothing is wrong with 1 file."
    inspection_page(tmp_path / "page.html", inspection)
    assert "Findings</h3>" not in (tmp_path / "page.html").read_text()


def test_a_contact_sheet_shows_slices_with_the_patients_right_on_the_left() -> None:
    plane = np.zeros((40, 20), np.float32)
    plane[30:, :] = 1  # the right side
    sheet = contact_sheet({name: Slice(plane, None, (1.0, 2.0)) for name in ("a", "b", "c")}, "mr", ["b"])
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    assert pixels.shape == (CELL + NAME + 2 * GAP, 3 * (CELL + GAP) + GAP, 3)
    first = pixels[GAP : GAP + CELL, GAP : GAP + CELL, 0]
    assert first[:, : CELL // 5].min() > 200
    assert first[:, CELL // 3 :].max() < 50
    framed = np.all(pixels == (0xE6, 0x9F, 0x00), axis=-1).any(axis=0)
    assert np.flatnonzero(framed).min() >= CELL + GAP
    assert np.flatnonzero(framed).max() < 2 * (CELL + GAP) + GAP

"""DICOM segmentations written by highdicom are read on the grid of their scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_files import AXIAL, OBLIQUE, PATIENT, places, voxels, write_segmentation, write_series
from voxmim.errors import ScanError
from voxmim.images.formats.dicom import find_series
from voxmim.images.grid import Grid
from voxmim.images.image_file import ImageFile
from voxmim.images.volume import open_image, read_volume

LABELS = np.zeros((8, 7, 6), dtype=np.uint8)
LABELS[1:4, 1:3, 2:4], LABELS[5:7, 4:6, 3:5] = 1, 2


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_segments_are_aligned_with_their_scan(tmp_path: Path, orientation: tuple[float, ...], kind: str) -> None:
    scan = write_series(tmp_path / "scan", voxels(6), places(6, orientation=orientation), orientation)
    file = write_segmentation(tmp_path / "case_1.dcm", scan, LABELS, kind)
    grid = open_image(tmp_path / "scan").grid
    affine = grid.affine
    label = open_image(file).read_label(grid)
    np.testing.assert_array_equal(label.array[0], LABELS)
    np.testing.assert_array_equal(label.affine, affine)
    assert label.array.dtype == np.uint8
    alone = read_volume(file)  # only the slices with labels
    assert alone.shape == (8, 7, 3)
    world = {tuple(np.round((alone.affine @ [*at, 1])[:3], 3)) for at in np.argwhere(alone.array[0] == 2)}
    assert world == {tuple(np.round((affine @ [*at, 1])[:3], 3)) for at in np.argwhere(LABELS == 2)}
    assert open_image(file).sizes == alone.shape


def test_a_segmentation_in_a_folder_is_not_a_scan(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "seg.dcm", write_series(tmp_path, voxels(6)), LABELS)
    assert [series.fault for series in find_series(tmp_path) if series.modality == "SEG"] == [
        "1 file holds a DICOM segmentation, which is a label map and no scan"
    ]
    assert read_volume(tmp_path).shape == (8, 7, 6)


@pytest.mark.parametrize(
    ("masks", "kind", "fault"),
    [
        (np.stack([LABELS == 1, LABELS > 0], axis=-1).astype(np.uint8), "BINARY", "its segments overlap"),
        (np.stack([LABELS == 1, LABELS == 2], axis=-1) * 0.5, "FRACTIONAL", "fractions, not masks"),
    ],
)
def test_overlapping_or_fractional_segments_are_refused(
    tmp_path: Path, masks: np.ndarray, kind: str, fault: str
) -> None:
    file = write_segmentation(tmp_path / "a.dcm", write_series(tmp_path / "scan", voxels(6)), masks, kind)
    with pytest.raises(ScanError, match=rf"a\.dcm: .*{fault}"):
        read_volume(file)


def test_segments_of_another_scan_are_refused(tmp_path: Path) -> None:
    file = write_segmentation(tmp_path / "a.dcm", write_series(tmp_path / "scan", voxels(6)), LABELS)
    grid = open_image(tmp_path / "scan").grid
    moved = grid.affine.copy()
    moved[0, 3] += 0.3
    with pytest.raises(ScanError, match=r"a\.dcm: its voxels do not lie on those of its scan"):
        open_image(file).read_label(Grid(grid.shape, moved))
    with pytest.raises(ScanError, match="do not lie on those of its scan"):
        open_image(file).read_label(Grid((4, 7, 6), grid.affine))


def test_label_maps_in_other_formats_are_read_unchanged(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", voxels(6))
    assert open_image(tmp_path / "scan").read_label(Grid((1, 1, 1), np.eye(4))).shape == (8, 7, 6)


@pytest.mark.parametrize("cut", [0.5, 0.99])
def test_a_truncated_segmentation_is_refused_without_the_patients_name(tmp_path: Path, cut: float) -> None:
    file = write_segmentation(tmp_path / "a.dcm", write_series(tmp_path / "scan", voxels(6)), LABELS)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(
        ScanError, match=r"a\.dcm: a DICOM segmentation cannot be read; the file is cut off"
    ) as exc_info:
        read_volume(file)
    assert PATIENT.split("^")[0] not in str(exc_info.value)


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.integers(0, 3))
def test_a_partial_label_map_with_other_axes_is_placed_correctly(
    order: list[int], flips: tuple[bool, ...], start: int
) -> None:
    part = LABELS[start:, :, 1:].transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = (start, 0, 1)[old] + (part.shape[new] - 1 if flip else 0)
    onto = np.diag([0.8, 0.7, 2.5, 1.0])
    file = ImageFile(Path("a"), part.shape, onto @ turn, lambda: part, partial=True)
    back = file.read_label(Grid((8, 7, 6), onto)).array[0]
    inside = LABELS.copy()
    inside[:start] = inside[:, :, :1] = 0
    np.testing.assert_array_equal(back, inside)

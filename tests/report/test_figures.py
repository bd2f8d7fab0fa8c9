from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor
from scipy import ndimage

from voxmim.report.figures import (
    GAP,
    HEADING,
    HIDDEN_COLOUR,
    LABEL_COLOURS,
    MARGIN,
    PANEL,
    TALLEST,
    display_range,
    label_colour,
    middle_of,
    reconstruction_picture,
    segmentation_picture,
)

SIZE = 24  # of the cubes below, whose planes fill squares of PANEL pixels


def decoded(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels: np.ndarray) -> np.ndarray:
    """The coloured pixels of a picture, which are labels, since scans and texts are grey."""
    return np.ptp(pixels, axis=-1) > 40


def panel_of(pixels: np.ndarray, row: int, column: int = 0) -> np.ndarray:
    """The panel of a cube, without the letters at its edges."""
    top, left = HEADING + row * (PANEL + GAP), MARGIN + column * (PANEL + GAP)
    return pixels[top : top + PANEL, left : left + PANEL]


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Centre of a mask, as fractions of height and width."""
    down, across = np.argwhere(mask).mean(axis=0) / mask.shape
    return down, across


# The expected centre in the picture of a block at the patient's right, front or top, as (row, (down, across)).
SIDES = {
    "right": ((slice(18, 24), slice(9, 15), slice(9, 15)), [(0, (0.5, 0.125)), (1, (0.5, 0.125))]),
    "anterior": ((slice(9, 15), slice(18, 24), slice(9, 15)), [(0, (0.125, 0.5)), (2, (0.5, 0.125))]),
    "superior": ((slice(9, 15), slice(9, 15), slice(18, 24)), [(1, (0.125, 0.5)), (2, (0.125, 0.5))]),
}


@pytest.mark.parametrize("side", SIDES)
def test_a_labelled_block_is_shown_in_radiological_orientation(side: str) -> None:
    block, expected = SIDES[side]
    labels = np.zeros((SIZE, SIZE, SIZE), dtype=np.uint8)
    labels[block] = 1
    png = segmentation_picture(np.zeros(labels.shape), [("reference", labels)], (1, 1, 1), (12, 12, 12))
    pixels = decoded(png)
    centres = {row: centre(coloured(panel_of(pixels, row))) for row, _ in expected}
    for row, place in expected:
        assert centres[row] == pytest.approx(place, abs=0.02)
    (empty_row,) = {0, 1, 2} - set(centres)
    assert not coloured(panel_of(pixels, empty_row)).any()  # the plane through the middle does not cross the block


def test_scan_and_labels_have_the_same_orientation() -> None:
    image = np.zeros((SIZE, SIZE, SIZE))
    image[14:22, 3:9, 15:23] = 1.0
    pixels = decoded(segmentation_picture(image, [("scan", None), ("same", image > 0)], (1, 1, 1), (18, 6, 19)))
    for row in range(3):
        scan = panel_of(pixels, row)[..., 0] > 128
        scan[PANEL // 2 - 15 : PANEL // 2 + 15, :25] = scan[PANEL // 2 - 15 : PANEL // 2 + 15, -25:] = False
        assert centre(scan) == pytest.approx(centre(coloured(panel_of(pixels, row, column=1))), abs=0.01)


@settings(max_examples=8, deadline=None)
@given(spacing=st.tuples(*[st.sampled_from([0.6, 1.0, 2.5, 4.0])] * 3))
def test_a_ball_is_round_and_of_the_same_size_in_all_planes_for_any_spacing(spacing: tuple[float, ...]) -> None:
    shape = [round(extent / mm) for extent, mm in zip((60, 50, 70), spacing, strict=True)]
    mm = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    ball = sum(axis**2 for axis in mm) < 20**2
    at = tuple(n // 2 for n in shape)
    pixels = decoded(segmentation_picture(np.zeros(shape), [("ball", ball)], spacing, at))
    regions, count = ndimage.label(ndimage.binary_closing(coloured(pixels), iterations=2))
    assert count == 3
    scale = min(PANEL / (max(shape[0] * spacing[0], shape[1] * spacing[1])), TALLEST / (shape[2] * spacing[2]))
    voxel = max(spacing) * scale  # a ball of voxels is round up to about a voxel
    for down, across in ndimage.find_objects(regions):
        assert down.stop - down.start == pytest.approx(40 * scale, abs=voxel + 3)
        assert across.stop - across.start == pytest.approx(40 * scale, abs=voxel + 3)


def test_each_label_has_a_coloured_outline_and_a_transparent_interior() -> None:
    labels = np.zeros((SIZE, SIZE, SIZE), dtype=np.int64)
    labels[2:10], labels[14:22] = 1, 9
    image = np.zeros(labels.shape)
    image[:, :12] = 0.6
    panel = panel_of(decoded(segmentation_picture(image, [("", labels)], (1, 1, 1), (12, 12, 12))), 0)
    for index, across in ((9, 75), (1, 225)):  # the patient's right, of high x, is on the left
        colour = np.array(ImageColor.getrgb(label_colour(index)))
        column = panel[100, across - 60 : across + 60]
        assert np.abs(column - colour).sum(axis=-1).min() < 30
        np.testing.assert_allclose(panel[50, across], 0.35 * colour, atol=3)
        np.testing.assert_allclose(panel[250, across], 0.35 * colour + 0.65 * 153, atol=3)


def test_hidden_voxels_are_coloured_and_the_reconstruction_keeps_visible_voxels() -> None:
    original = np.zeros((SIZE, SIZE, SIZE))  # black, like air
    original[:, :, ::2] = 1000.0  # not in HU
    hidden = np.zeros(original.shape, dtype=bool)
    hidden[:12] = True  # the patient's left, on the right of the picture
    pixels = decoded(reconstruction_picture(original, hidden, np.full(original.shape, 500.0), (1, 1, 1), (0, 12, 12)))
    scan, masked, reconstruction = (panel_of(pixels, 0, column) for column in range(3))
    assert (masked[:, 150:] == ImageColor.getrgb(HIDDEN_COLOUR)).all()
    assert coloured(masked[:, 150:]).all()
    np.testing.assert_array_equal(masked[60:140, 40:140], scan[60:140, 40:140])
    np.testing.assert_array_equal(reconstruction[60:140, 40:140], scan[60:140, 40:140])
    assert (scan[60:140, 160:260] > 250).all()
    np.testing.assert_allclose(reconstruction[60:140, 190:260], 127, atol=2)
    assert (panel_of(pixels, 2, 1)[:100] == ImageColor.getrgb(HIDDEN_COLOUR)).all()  # x = 0 is completely hidden


def test_pictures_with_many_columns_or_thin_scans_have_the_same_panels() -> None:
    labels = np.zeros((2, 3, 40), dtype=np.uint8)
    wide = [("a heading that is much too long for the column below it, and goes on", labels)] * 5
    thin = decoded(segmentation_picture(np.zeros(labels.shape), wide, (1, 1, 1), (0, 0, 0)))
    assert thin.shape[1] == MARGIN + 5 * (PANEL + GAP)
    for column in range(5):
        end = MARGIN + column * (PANEL + GAP) + PANEL
        assert thin[:HEADING, end - 40 : end].any()
        assert not thin[:HEADING, end + 1 : end + GAP - 1].any()  # headings do not overlap


def test_the_display_range_clips_to_percentiles_or_limits() -> None:
    image = np.linspace(-1000, 1000, 2001)
    np.testing.assert_allclose(display_range(image)[[0, 10, 1000, 1990, 2000]], [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(display_range(image, limits=(-175, 250))[[0, 1000, 2000]], [0, 175 / 425, 1], atol=1e-6)
    with_nan = display_range(np.array([np.nan, 0.0, 1.0, 2.0, np.inf]))
    np.testing.assert_allclose(with_nan, [0, 0, 0.5, 1, 1])
    assert not display_range(np.full(5, 7.0)).any()
    assert not display_range(np.full(5, np.nan)).any()
    assert with_nan.dtype == np.float32


def test_the_middle_is_on_a_slice_with_many_labelled_voxels() -> None:
    assert middle_of(None, (10, 21, 7)) == (5, 10, 3)
    labels = np.zeros((40, 20, 20), dtype=np.uint8)
    assert middle_of(labels, labels.shape) == (20, 10, 10)
    labels[2:9, 4:9, 12:17] = 1
    assert middle_of(labels, labels.shape) == (5, 6, 14)
    labels[2:9], labels[30:37] = 0, 0
    labels[2:9, 4:9, 12:17], labels[29:36, 4:9, 12:17] = 1, 1  # two lungs, with the centre between them
    x, y, z = middle_of(labels, labels.shape)
    assert labels[x].sum() == 25
    assert (y, z) == (6, 14)


def test_a_small_label_counts_as_much_as_a_large_one() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[2:28, 2:28, 2:28] = 1
    labels[20:23, 20:23, 20:23] = 2
    at = middle_of(labels, labels.shape)
    assert labels[at] == 2


def test_colours_repeat_after_the_last() -> None:
    assert label_colour(1) == LABEL_COLOURS[0]
    assert label_colour(len(LABEL_COLOURS) + 2) == LABEL_COLOURS[1]


# Machado, Oliveira and Fernandes (2009): linear RGB as seen with protanopia and deuteranopia.
_PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
_DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


@pytest.mark.parametrize("vision", [np.eye(3), _PROTAN, _DEUTAN], ids=["full", "no red", "no green"])
def test_colours_can_be_distinguished_with_colour_blindness(vision: np.ndarray) -> None:
    rgb = np.array([ImageColor.getrgb(colour) for colour in LABEL_COLOURS]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.asarray(vision).T, 0, 1) @ np.array(
        [[0.4339, 0.2126, 0.0178], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8730]]
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15  # CIE76; 2.3 is just noticeable

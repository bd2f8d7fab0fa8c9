"""Planes drawn by the server."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from voxmim.images.grid import Volume
from voxmim.viewer.collection import Layer
from voxmim.viewer.slices import draw_plane

ORANGE = np.array([230, 159, 0])


def pixels(layers: list[tuple[str, Volume]], plane: str, position: float = 0.5) -> np.ndarray:
    made = [(Layer("", kind, lambda v=volume: v), volume) for kind, volume in layers]  # type: ignore[arg-type]
    return np.asarray(Image.open(io.BytesIO(draw_plane(made, plane, position)))).astype(float)


def brightest(picture: np.ndarray) -> tuple[float, float]:
    """Row and column of the centre of the brightest pixels, from 0 to 1."""
    rows, columns = np.nonzero(picture[..., 0] == picture[..., 0].max())
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


@pytest.mark.parametrize(
    ("plane", "right_front_top"),
    [("axial", (0.15, 0.15)), ("coronal", (0.15, 0.15)), ("sagittal", (0.15, 0.15))],
)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_right_anterior_and_superior_are_left_and_up(
    plane: str, right_front_top: tuple[float, float], signs: tuple[int, int, int]
) -> None:
    """A bright corner at the right, front and top, for any voxel axes."""
    array = np.zeros((1, 10, 10, 10), np.float32)
    corner = tuple(slice(7, 10) if sign > 0 else slice(0, 3) for sign in signs)
    array[(0, *corner)] = 1
    volume = Volume(array, np.diag([*map(float, signs), 1.0]))
    assert brightest(pixels([("image", volume)], plane, 0.8)) == pytest.approx(right_front_top, abs=0.02)


def test_a_millimetre_has_the_same_length_in_both_directions() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(1, 10, 20, 5)).astype(np.float32), np.diag([3.0, 1, 2, 1]))
    height, width, _ = pixels([("image", volume)], "axial").shape
    assert width / height == pytest.approx(30 / 20, abs=0.02)


def test_a_label_is_coloured_at_its_world_position() -> None:
    """The label map has another grid than the scan, with half the spacing and a flipped axis."""
    scan = Volume(np.zeros((1, 10, 10, 10), np.float32), np.eye(4))
    labels = np.zeros((1, 20, 20, 20), np.uint8)
    labels[0, 0:6] = 1  # X points to the left; this is the patient's right
    affine = np.diag([-0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = [9.25, -0.25, -0.25]
    picture = pixels([("image", scan), ("labels", Volume(labels, affine))], "axial")
    coloured = np.abs(picture - ORANGE / 2).sum(-1) < 4
    columns = np.nonzero(coloured.any(0))[0]
    assert columns.min() == 0
    assert columns.max() / picture.shape[1] == pytest.approx(0.3, abs=0.03)

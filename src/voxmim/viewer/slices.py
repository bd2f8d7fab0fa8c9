"""Planes of an item drawn on the server, for browsers without WebGL2."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor

from voxmim.images.geometry import resample, to_ras
from voxmim.images.grid import Grid, Volume
from voxmim.report.figures import display_range, label_colour
from voxmim.viewer.collection import Layer

PLANES = ("sagittal", "coronal", "axial")  # index: the axis that the plane is perpendicular to
_HEIGHT = 480  # pixels at most
_COVER = 0.5  # how much of the scan a label's colour covers


def draw_plane(layers: Sequence[tuple[Layer, Volume]], plane: str, position: float) -> bytes:
    """PNG of one plane through layers, the first of which gives the grid; the patient's right is on the left.

    Args:
        layers: with their volumes (1, X, Y, Z).
        plane: ``axial``, ``coronal`` or ``sagittal``.
        position: of the plane along its axis, from 0 to 1.
    """
    axis = PLANES.index(plane)
    base = to_ras(layers[0][1])
    index = round(min(max(position, 0.0), 1.0) * (base.shape[axis] - 1))
    pixels: np.ndarray | None = None
    for layer, volume in layers:
        volume = to_ras(volume)
        if volume.shape != base.shape or not np.allclose(volume.affine, base.affine, atol=1e-4):
            volume = resample(volume, Grid.of(base), "nearest" if layer.kind == "labels" else "linear")
        seen = np.take(volume.array[0], index, axis)
        if pixels is None:
            pixels = np.repeat(display_range(seen, limits=_limits(volume.array))[..., None] * 255, 3, axis=-1)
        elif layer.kind == "labels":
            for value in np.unique(seen[seen > 0]).tolist():
                colour = np.array(ImageColor.getrgb(label_colour(int(value))))
                pixels[seen == value] = (1 - _COVER) * pixels[seen == value] + _COVER * colour
        elif layer.kind == "error":
            strength = display_range(seen, limits=_limits(volume.array))[..., None]
            pixels = (1 - strength) * pixels + strength * np.array([255.0, 80.0, 40.0])
        else:
            pixels = np.repeat(display_range(seen, limits=_limits(volume.array))[..., None] * 255, 3, axis=-1)
    assert pixels is not None
    across, up = (size for i, size in enumerate(base.spacing) if i != axis)
    # Superior (or anterior) is up; the patient's right (sagittal: anterior) is on the left.
    picture = Image.fromarray(np.flip(pixels.transpose(1, 0, 2), (0, 1)).astype(np.uint8))
    width, height = picture.width * across, picture.height * up
    scale = _HEIGHT / max(width, height)
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _limits(array: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(array[np.isfinite(array)] if np.isfinite(array).any() else np.zeros(1), (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))

"""Drawing planes of volumes on the server, for browsers without WebGL2."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor

from voxmim.images.geometry import resample, to_ras
from voxmim.images.grid import Grid, Volume
from voxmim.report.figures import display_range, label_colour, limits_of
from voxmim.viewer.collection import Layer

PLANES = ("sagittal", "coronal", "axial")  # index: the axis that the plane is perpendicular to
_HEIGHT = 480  # pixels at most
_WHITE, _ERROR = np.array([255.0, 255.0, 255.0]), np.array([255.0, 80.0, 40.0])
COVER = 0.5  # opacity of labels


def draw_plane(layers: Sequence[tuple[Layer, Volume]], plane: str, position: float) -> bytes:
    """A PNG of one plane of layers on the grid of the first; the patient's right is on the left.

    Volumes are (1, X, Y, Z); the position of the plane along its axis is from 0 to 1.
    """
    axis = PLANES.index(plane)
    base = to_ras(layers[0][1])
    index = round(min(max(position, 0.0), 1.0) * (base.shape[axis] - 1))
    pixels = np.zeros((*(size for i, size in enumerate(base.shape) if i != axis), 3))
    for layer, volume in layers:
        volume = to_ras(volume)
        if volume.shape != base.shape or not np.allclose(volume.affine, base.affine, atol=1e-4):
            volume = resample(volume, Grid.of(base), "nearest" if layer.kind == "labels" else "linear")
        values = np.take(volume.array[0], index, axis)
        if layer.kind == "labels":
            for value in np.unique(values[values > 0]).tolist():
                colour = np.array(ImageColor.getrgb(label_colour(int(value))))
                pixels[values == value] = (1 - COVER) * pixels[values == value] + COVER * colour
            continue
        strength = display_range(values, limits_of(volume.array))[..., None]
        under, colour = (pixels, _ERROR) if layer.kind == "error" else (0.0, _WHITE)
        pixels = (1 - strength) * under + strength * colour
    across, up = (size for i, size in enumerate(base.spacing) if i != axis)
    # Superior (or anterior) is up; the patient's right (sagittal: anterior) is on the left.
    picture = Image.fromarray(np.flip(pixels.transpose(1, 0, 2), (0, 1)).astype(np.uint8))
    width, height = picture.width * across, picture.height * up
    scale = _HEIGHT / max(width, height)
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()

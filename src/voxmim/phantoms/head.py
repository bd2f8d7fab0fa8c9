"""Head phantoms: small MR scans of invented brains in four sequences, with the label maps of a tumour as BraTS has it.

Each case has its own brain (phantom_brain.py), and each of its sequences its own contrast, scale, bias field and noise.
The skull is stripped and the background exactly 0, as in BraTS; all heads lie on one grid, turned only a little.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from voxmim.images.volume import Volume
from voxmim.phantoms.brain import LABELS, Brain
from voxmim.phantoms.shapes import generator, lay_out, turn

__all__ = ["LABELS", "REGIONS", "SEQUENCES", "draw_head"]

SEQUENCES = ("T1", "T1ce", "T2", "FLAIR")
REGIONS: dict[str, list[int]] = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}  # whole tumour, its core, what enhances

_SHAPE = (48, 56, 48)
_SPACING = np.full(3, 3.8)  # mm
_SHADES = {  # of each tissue in each of the sequences, white matter in T1 being about 0.8
    "fluid": (0.18, 0.19, 1.00, 0.14),
    "grey": (0.56, 0.58, 0.64, 0.62),
    "white": (0.80, 0.82, 0.44, 0.50),
    "aged white": (0.70, 0.72, 0.62, 0.74),
    "nucleus": (0.66, 0.68, 0.54, 0.58),
    "vessel": (0.40, 0.95, 0.25, 0.25),
    "oedema": (0.54, 0.55, 0.82, 0.95),
    "rim": (0.52, 1.05, 0.70, 0.78),
    "necrosis": (0.30, 0.32, 0.92, 0.46),
}


def draw_head(seed: int) -> tuple[Volume, Volume]:
    """Draw one case; the same seed gives the same case.

    Args:
        seed: 0 or more.

    Returns:
        The scan, (4, 48, 56, 48) int16 in the order of `SEQUENCES`, 3.8 mm voxels oriented LPS, and its label map,
        uint8 with the values of `LABELS` and 0 for the rest, on the same grid.

    Raises:
        VoxmimError: the seed is negative.
    """
    rng = generator(seed)
    shades = {
        tissue: (np.array(values) * np.exp(rng.normal(0, 0.04, len(values)))).reshape(-1, 1, 1, 1)
        for tissue, values in _SHADES.items()
    }
    middle = np.array([0.0, 0.0, -2.0]) + rng.uniform(-2, 2, 3)
    canvas = lay_out(_SHAPE, _SPACING, middle, 5, (3, 3, 3), rng, shades["fluid"].ravel())
    brain = Brain(canvas, shades, rng)
    brain.draw()
    inside = brain.outline < 0
    image = np.stack([_scan(channel, canvas.field(rng, 110), inside, rng) for channel in canvas.values])
    affine = np.diag([*_SPACING, 1.0])
    affine[:3, 3] = -0.5 * (np.array(_SHAPE) - 1) * _SPACING
    labels = (canvas.labels * inside)[None]
    return turn(image, affine, (-1, -1, 1)), turn(labels, affine, (-1, -1, 1))


def _scan(tissue: np.ndarray, bias: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z) int16 as a scanner gives one sequence and stripping the skull leaves it.

    Slightly blurred, brighter where the coil is near, with the noise of a magnitude (a Rice distribution), in units of
    the scanner's own; at least 1 inside, 0 outside.
    """
    blurred = ndimage.gaussian_filter(tissue, rng.uniform(0.3, 0.55)) * np.exp(rng.uniform(0.05, 0.15) * bias)
    level = rng.uniform(0.015, 0.04)
    real, imaginary = level * rng.standard_normal((2, *tissue.shape), dtype=np.float32)
    magnitude = np.hypot(blurred + real, imaginary) * np.exp(rng.uniform(np.log(150), np.log(3000)))
    return np.where(inside, np.rint(magnitude).clip(1, 32767), 0).astype(np.int16)

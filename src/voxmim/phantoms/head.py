"""Head phantoms: small MR scans of invented brains in four sequences, most with a tumour labelled as in BraTS.

Each case has its own brain, and each of its sequences its own contrast, scale, bias field and noise. The skull is
stripped and the background exactly 0. Body coordinates are mm to the right, front and head of a point between the
thalami.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from voxmim.images.grid import Volume
from voxmim.phantoms.canvas import Canvas, Shape, generator, intersection, union, volume

LABELS = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
NECROSIS, OEDEMA, ENHANCING = LABELS
REGIONS = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}  # whole tumour, its core, the enhancing part
SEQUENCES = ("T1", "T1ce", "T2", "FLAIR")

WITHOUT_TUMOUR = 0.15  # of the cases
TINY = 0.2  # of the tumours
_SHAPE, _SPACING = (48, 56, 48), np.full(3, 3.8)
_SHADES = {  # of each tissue in each sequence
    "fluid": (0.18, 0.19, 1.00, 0.14),
    "grey": (0.56, 0.58, 0.64, 0.62),
    "white": (0.80, 0.82, 0.44, 0.50),
    "aged white": (0.70, 0.72, 0.62, 0.74),
    "vessel": (0.40, 0.95, 0.25, 0.25),
    "oedema": (0.54, 0.55, 0.82, 0.95),
    "rim": (0.52, 1.05, 0.70, 0.78),
    "necrosis": (0.30, 0.32, 0.92, 0.46),
}
Shade = Callable[[str], np.ndarray]


def draw_head(seed: int) -> tuple[Volume, Volume]:
    """The scan of a seed, (4, 48, 56, 48) int16 as `SEQUENCES`, 3.8 mm, LPS; and its label map, uint8 as `LABELS`."""
    rng = generator(seed)
    shades = {tissue: np.array(values) * np.exp(rng.normal(0, 0.04, 4)) for tissue, values in _SHADES.items()}
    canvas = Canvas(_SHAPE, _SPACING, rng.uniform(-2, 2, 3) - (0, 0, 2), shades["fluid"], rng)

    def shade(tissue: str) -> np.ndarray:
        return shades[tissue].reshape(4, 1, 1, 1) * (1 + 0.03 * canvas.noise(14))

    cerebrum, brain = _outline(canvas)
    white = _draw_brain(canvas, cerebrum, brain, shade)
    if rng.random() >= WITHOUT_TUMOUR:
        _draw_tumour(canvas, cerebrum, white, shade)
    inside = canvas.rough(brain - rng.uniform(0, 2.5), 0.8, 25) < 0
    image = np.stack([_scan(canvas, channel, inside) for channel in canvas.values])
    labels = (canvas.labels * inside)[None]
    return volume(image, _SPACING, (0, 0, 0), (-1, -1, 1)), volume(labels, _SPACING, (0, 0, 0), (-1, -1, 1))


def _outline(c: Canvas) -> tuple[Shape, Shape]:
    """The cerebrum (a dome with temporal lobes below), and the brain with cerebellum and stem."""
    size = c.vary(0.99, 0.07)
    dome = c.ellipsoid((0, 0, 0), np.array([c.vary(67, 4), c.vary(83, 5), c.vary(63, 4)]) * size)
    temporal = np.exp(-(((np.abs(c.x) - 42) / 20) ** 2) - ((c.y - 6) / 32) ** 2)
    tent = np.exp(-((c.x / 45) ** 2) - ((c.y + 42) / 30) ** 2)
    floor = (-25 - c.vary(18, 3) * temporal + c.vary(14, 3) * tent) * size
    cerebrum = c.rough(intersection(dome, floor - c.z, blend=12), 2)
    halves = [c.ellipsoid((x, c.vary(-49, 3), -38), np.array([33, 30, 23]) * size) for x in (-19, 19)]
    stem = intersection(c.column(0, -22 + 0.12 * (c.z + 30), 13, 13), c.z + 5, c.vary(-66, 4) * size - c.z)
    return cerebrum, union(cerebrum, *halves, stem, blend=14)


def _draw_brain(c: Canvas, cerebrum: Shape, brain: Shape, shade: Shade) -> Shape:
    """Grey matter along the folded surface, white matter within, ventricles and vessels; returns the white matter."""
    age = c.rng.uniform(0, 1)  # widens sulci and ventricles
    # Sulci: the sheets on which smooth noise changes its sign, down to some depth.
    noise = c.noise(18)
    slope = np.sqrt(sum(step**2 for step in np.gradient(noise, *c.spacing))) + np.float32(0.03)
    sulci = intersection(np.abs(noise) / slope - 0.5 - 1.3 * age, -cerebrum - c.vary(17, 3), blend=3)
    callosum = c.ellipsoid((0, 0, 2), (60, 42, c.vary(22, 2)))
    fissure = intersection(np.abs(c.x + 1.5 * c.noise(60)) - 0.5 - 1.3 * age, -callosum)
    grey = intersection(brain, -sulci, -fissure)
    white = c.rough(grey + c.vary(3.8, 0.4), 0.4, 12)
    c.paint(grey, shade("grey"))
    c.paint(white, shade("white"))
    wide = np.exp(c.rng.normal(0, 0.15)) * (0.65 + 0.75 * age)
    horns = [
        c.ellipsoid((side * (x + 3 * wide), y, z), (7 * wide, length, 9 * wide**0.5), (side * lean, 0))
        for side in (-1, 1)
        for x, y, z, length, lean in ((9, c.vary(10, 3), 13, 27, 0.3), (20, c.vary(-30, 4), 8, 22, -0.2))
    ]
    ventricles = c.rough(union(*horns, blend=10), 1, 20)
    c.paint(
        intersection(c.rough(ventricles - 6 * age * c.rng.uniform(0, 1), 2, 15), cerebrum + 15), shade("aged white")
    )
    c.paint(ventricles, shade("fluid"))
    # Vessels between the folds take up contrast agent as some tumours do.
    tubes = 10 * (np.abs(c.noise(30)) + np.abs(c.noise(30))) - c.vary(1.4, 0.5)
    c.paint(intersection(tubes, 1 - white), shade("vessel"))
    return intersection(white, -ventricles)


def _draw_tumour(c: Canvas, cerebrum: Shape, white: Shape, shade: Shade) -> None:
    """A tumour anywhere in the cerebrum: necrosis in an enhancing rim, and oedema along the white matter around it."""
    rng = c.rng
    i, j, k = rng.choice(np.argwhere(cerebrum < -7))
    radius = rng.uniform(5, 8) if rng.random() < TINY else rng.uniform(9, 24)
    ball = c.ellipsoid((c.x[i, j, k], c.y[i, j, k], c.z[i, j, k]), radius * rng.uniform(0.75, 1.25, 3))
    core = intersection(c.rough(ball, 0.2 * radius, max(radius, 8)), cerebrum + 1)
    reach = radius * rng.uniform(0.15, 0.9) + rng.uniform(1, 6)
    oedema = intersection(c.rough(core - reach, 0.3 * reach, 16), white - 1.5)
    c.paint(union(oedema, core - 1), shade("oedema"), OEDEMA)
    c.paint(core, shade("rim"), ENHANCING)
    rim = rng.uniform(3, 6) + 0.1 * radius
    c.paint(c.rough(core + rim, 0.3 * rim, 12), shade("necrosis"), NECROSIS)


def _scan(canvas: Canvas, tissue: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(X, Y, Z) int16 of one sequence: blurred, with a bias field and Rician noise, in arbitrary units, 0 outside."""
    rng = canvas.rng
    blurred = ndimage.gaussian_filter(tissue, rng.uniform(0.3, 0.55)) * np.exp(
        rng.uniform(0.05, 0.15) * canvas.noise(110)
    )
    real, imaginary = rng.uniform(0.015, 0.04) * rng.standard_normal((2, *tissue.shape), dtype=np.float32)
    magnitude = np.hypot(blurred + real, imaginary) * np.exp(rng.uniform(np.log(150), np.log(3000)))
    return np.where(inside, np.rint(magnitude).clip(1, 32767), 0).astype(np.int16)

"""Trunk phantoms: small CT scans of invented people with six labelled organs.

People differ in build, organs, contrast agent, posture and field of view. Body coordinates are mm to the right, front
and head; the origin lies in the middle of the trunk at the height of the diaphragm's right dome. Lengths and HU are
those of adults.
"""

import numpy as np
from scipy import ndimage

from voxmim.images.grid import Volume
from voxmim.phantoms.canvas import Canvas, Shape, generator, intersection, union, volume

LABELS = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney", 5: "aorta", 6: "spine"}
LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, AORTA, SPINE = LABELS

PHASES = ("plain", "arterial", "venous")  # of the contrast agent
AIR, FAT, LUNG = -1000.0, -105.0, -840.0
_HU = {  # in each phase
    "blood": (42, 290, 155), "liver": (56, 72, 108), "spleen": (50, 108, 114), "cortex": (34, 155, 172),
    "medulla": (30, 72, 156),
}  # fmt: skip
_ORIENTATIONS = ((-1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, -1))  # LPS, RAS, LAS, LPI


def contrast_phase(seed: int) -> str:
    """The class of a trunk as a whole: the phase of the contrast agent."""
    return PHASES[_phase(generator(seed))]


def _phase(rng: np.random.Generator) -> int:
    return int(rng.choice(3, p=[0.2, 0.25, 0.55]))


def draw_trunk(seed: int) -> tuple[Volume, Volume]:
    """The scan, (1, X, Y, Z) int16 HU, about 72 x 60 x 64 voxels of 5 mm, and its label map, uint8 with the `LABELS`.

    The same seed gives the same case; consecutive seeds differ in orientation.
    """
    rng = generator(seed)
    phase = _phase(rng)
    agent = rng.uniform(0.8, 1.2)
    hu = {tissue: plain[0] + agent * (plain[phase] - plain[0]) + rng.normal(0, 3) for tissue, plain in _HU.items()}
    size, fat = rng.uniform(0.86, 1.1), rng.uniform(18, 45)
    width, depth = size * rng.uniform(116, 138), size * rng.uniform(76, 98)
    spacing = np.array([rng.uniform(4.6, 5.4)] * 2 + [rng.uniform(4.5, 5.5)])
    field = np.array([2 * (width + fat) + 30, 2 * (depth + fat) + 60, rng.uniform(265, 335)])
    middle = (rng.uniform(-6, 6), -18 + rng.uniform(-6, 6), rng.uniform(30, 90) - field[2] / 2)
    canvas = Canvas(np.clip(field / spacing, 48, 86).astype(int), spacing, middle, [AIR], rng)
    skin = _Trunk(canvas, hu, size, width, depth, fat).draw()
    scan, place = _scan(canvas, skin), rng.uniform(-60, 60, 3)
    signs = _ORIENTATIONS[seed % len(_ORIENTATIONS)]
    return volume(scan[None], spacing, place, signs), volume(canvas.labels[None], spacing, place, signs)


class _Trunk:
    """One person on a canvas; `hu` are the values of the tissues, lengths are in mm."""

    def __init__(
        self, canvas: Canvas, hu: dict[str, float], size: float, width: float, depth: float, fat: float
    ) -> None:
        self.canvas, self.hu, self.size, self.width, self.depth, self.fat = canvas, hu, size, width, depth, fat
        c, vary = canvas, canvas.vary
        taper = 1 - 0.05 * np.clip(c.z / 100, 0, None) ** 2  # towards the neck
        self.cavity = c.column(0, 0, width * taper, depth * taper)
        self.spine_x = vary(0, 8) * np.sin((c.z - vary(-50, 150)) / 70)
        self.spine_y = -depth + vary(15, 7) - vary(8, 5) * np.sin((c.z + 95) * (np.pi / 250))
        right, left = (
            top - 62 * ((c.x - x * width) / (0.5 * width)) ** 2 for x, top in ((0.5, 0.0), (-0.5, vary(-14, 10)))
        )
        domes = np.maximum(np.maximum(right, left), -30) - 70 * (c.y / depth) ** 2
        self.diaphragm = c.rough(domes, 4, 70)  # height of the diaphragm, not a shape

    def draw(self) -> Shape:
        """Paint everything from the outside inwards; returns the skin."""
        skin = self.wall()
        self.chest()
        self.bowel()
        self.liver()
        self.stomach_and_spleen()
        for side, label in ((1, RIGHT_KIDNEY), (-1, LEFT_KIDNEY)):
            self.kidney(side, label)
        self.spine()
        self.aorta()
        return skin

    def wall(self) -> Shape:
        """Skin, the fat under it, the muscles of the wall and the back, and the fat between the organs."""
        c = self.canvas
        skin = c.column(0, -18, self.width + self.fat, self.depth + self.fat + 18)
        c.paint(skin, FAT + 8 * c.noise(15))
        muscles = union(self.cavity - 14, *(c.column(self.spine_x + x, self.spine_y - 40, 26, 20) for x in (-31, 31)))
        c.paint(c.rough(muscles, 2), c.vary(52, 8))
        c.paint(self.cavity, FAT + 12 * c.noise(18))
        return skin

    def chest(self) -> None:
        """Lungs with their vessels, and the heart between them."""
        c, above = self.canvas, self.diaphragm - self.canvas.z
        lungs = intersection(self.cavity + 4, above, 22 - np.abs(c.x + 5), blend=8)
        c.paint(intersection(self.cavity, above), 25)
        c.paint(lungs, c.vary(LUNG, 40) + 260 * np.clip(np.abs(c.noise(14)) - 1.3, 0, 1))
        heart = c.ellipsoid((c.vary(-22, 10), c.vary(14, 8), c.vary(32, 10)), np.array([54, 42, 46]) * self.size)
        c.paint(intersection(c.rough(heart, 3), above + 2, blend=6), 45)
        c.paint(intersection(heart + 16, above), 0.85 * self.hu["blood"] + 6)

    def bowel(self) -> None:
        """Loops with soft walls, mixed content and some gas in the lower front of the abdomen."""
        c = self.canvas
        room = intersection(self.cavity + 8, c.z + c.vary(70, 20), self.spine_y + 32 - c.y, blend=10)
        loops = intersection(7 * (c.noise(20) - c.vary(-0.2, 0.3)), room)
        c.paint(loops, 42)
        c.paint(loops + 5, c.vary(25, 15) + 15 * c.noise(20))
        c.paint(intersection(loops + 6, 10 - 10 * c.noise(40), -c.y), AIR)

    def liver(self) -> None:
        """The liver under the right dome, with a lower edge that rises to the left, and veins."""
        c, width = self.canvas, self.width
        length, left = c.vary(150, 38) * self.size, c.vary(-42, 38) * self.size
        lower = -length + (length - 48) * np.clip((width - c.x) / (width - left), -0.1, 1.3)
        behind = -0.25 * self.depth + 0.75 * np.clip(0.35 * width - c.x, 0, None) - c.y
        parts = (self.cavity + 4, c.z - self.diaphragm + 4, (lower - c.z) * 0.75, left - c.x, behind * 0.7)
        shape = c.rough(intersection(*parts, blend=24), c.vary(4.5, 1.5))
        c.paint(shape, self.hu["liver"] + 5 * c.noise(11), LIVER)
        veins = 22 * (np.abs(c.noise(42)) + np.abs(c.noise(42)) - 0.13)
        c.paint(intersection(veins, shape + 8), (self.hu["liver"] + self.hu["blood"]) / 2, LIVER)

    def stomach_and_spleen(self) -> None:
        """The stomach under the left dome, with gas in front, and the spleen behind it."""
        c, below = self.canvas, self.canvas.z - self.diaphragm + 4
        centre = (c.vary(-0.47, 0.08) * self.width, c.vary(0.22, 0.12) * self.depth, c.vary(-58, 16))
        radii = np.array([c.vary(38, 9), c.vary(34, 8), c.vary(46, 10)]) * self.size
        stomach = c.rough(intersection(c.ellipsoid(centre, radii), self.cavity + 5, below, blend=10), 4)
        c.paint(stomach, c.vary(48, 10))
        c.paint(stomach + 6, c.vary(25, 20) + 12 * c.noise(25))
        c.paint(intersection(stomach + 6, centre[1] + c.vary(14, 14) - c.y), AIR)
        centre = (c.vary(-0.72, 0.07) * self.width, c.vary(-0.3, 0.16) * self.depth, c.vary(-72, 16))
        radii = np.array([c.vary(36, 5), c.vary(46, 7), c.vary(54, 9)]) * self.size * c.vary(1, 0.25)
        spleen = c.ellipsoid(centre, radii, (c.vary(0.1, 0.3), c.vary(0.25, 0.3)))
        hollow = c.ellipsoid((centre[0] + 1.5 * radii[0], centre[1] + 34, centre[2] - 8), radii)
        shape = intersection(spleen, -hollow, self.cavity + 4, below, blend=8)
        c.paint(c.rough(shape, 3), self.hu["spleen"] + 6 * c.noise(13), SPLEEN)

    def kidney(self, side: int, label: int) -> None:
        """A kidney in its capsule of fat beside the spine; `side` is 1 for the right one, which lies lower."""
        c = self.canvas
        centre = (side * c.vary(62, 8) * self.size, c.vary(21, 12) - self.depth, c.vary(-128, 24) - 6 * side)
        radii = np.array([c.vary(27, 4), c.vary(25, 4), c.vary(53, 8)]) * self.size * c.vary(1, 0.1)
        kidney = c.rough(c.ellipsoid(centre, radii, (-side * c.vary(0.25, 0.15), -c.vary(0.15, 0.15))), 2, 30)
        hilum = c.ellipsoid((centre[0] - side * radii[0], centre[1] + 6, centre[2]), radii * (0.75, 0.5, 0.32))
        shape = intersection(kidney, -hilum, self.cavity + 3, blend=5)
        c.paint(intersection(kidney - 8, self.cavity + 2), FAT)
        c.paint(shape, self.hu["cortex"], label)
        c.paint(shape + 8, self.hu["medulla"], label)

    def spine(self) -> None:
        """Vertebrae that are wider at their ends, with discs between them, arches behind, and the canal."""
        c, tall, wide = self.canvas, self.size * self.canvas.vary(29, 2), self.size * (1 - 0.0009 * self.canvas.z)
        part = (c.z / tall + c.vary(0.5, 0.5)) % 1  # 0 and 1 in the middle of a disc
        radius = 16.5 * wide * (1.04 - 0.14 * np.sin(np.pi * part) ** 2)
        bodies = c.rough(c.column(self.spine_x, self.spine_y, 1.28 * radius, radius), 0.7, 25)
        behind = self.spine_y - 16 * wide - 8
        level = np.abs(part - 0.42) * tall - 9
        arch = c.column(self.spine_x, behind, 15, 15)
        spinous = intersection(c.column(self.spine_x, behind - 20, 5, 22), level)
        transverse = intersection(c.column(self.spine_x, behind, 36, 6), level)
        canal = c.column(self.spine_x, behind, 8.5, 8.5)
        bone = c.vary(330, 70)
        c.paint(intersection(union(arch, spinous, transverse), -canal), bone, SPINE)
        c.paint(bodies, bone, SPINE)
        c.paint(bodies + 4, c.vary(175, 60) + 20 * c.noise(12), SPINE)
        c.paint(intersection(bodies, np.minimum(part, 1 - part) * tall - 3.6), c.vary(85, 15), SPINE)
        c.paint(canal, 28)

    def aorta(self) -> None:
        """The aorta: left of the spine in the chest, in front of it below."""
        c = self.canvas
        radius = c.vary(12.5, 2.5) * self.size + 0.012 * (c.z + 100)
        chest = np.clip((c.z + 60) / 130, 0, 1)
        x = self.spine_x + c.vary(-9, 6) - 22 * chest + 4 * np.sin(c.z / c.vary(45, 10))
        y = self.spine_y + 19.5 * self.size + radius - 18 * chest
        c.paint(intersection(c.column(x, y, radius, radius), c.vary(-235, 15) - c.z), self.hu["blood"], AORTA)


def _scan(canvas: Canvas, skin: Shape) -> np.ndarray:
    """(X, Y, Z) int16 HU of a simulated scanner: slightly blurred, with grainy noise that increases with depth."""
    rng = canvas.rng
    white = rng.standard_normal(skin.shape, dtype=np.float32)
    # Reconstruction passes a middle band of frequencies: neighbours are correlated, wide areas are not.
    grain = ndimage.gaussian_filter(white, (0.6, 0.6, 0.3)) - ndimage.gaussian_filter(white, (1.6, 1.6, 0.3))
    strength = rng.uniform(7, 20) * (0.5 + np.clip(-skin / 100, 0, 1))
    noisy = ndimage.gaussian_filter(canvas.values[0], rng.uniform(0.35, 0.6)) + grain / grain.std() * strength
    return np.rint(np.clip(noisy, AIR - 24, 3071)).astype(np.int16)

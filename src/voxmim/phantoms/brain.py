"""The anatomy of a head phantom: one brain, drawn from the outside inwards, and a tumour in most of them.

Coordinates are mm to the right, front and head; the origin lies between the thalami. The skull is stripped, as in
BraTS, whose label values and nested tumours these are. Lengths are those of adults.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxmim.phantoms.shapes import Canvas, join, meet

LABELS: dict[int, str] = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
NECROSIS, OEDEMA, ENHANCING = LABELS

WITHOUT_TUMOUR = 0.15  # of the cases
TINY = 0.2  # of the tumours


@dataclass(frozen=True)
class Tumour:
    """Where a tumour is.

    Attributes:
        centre: (3,) mm.
        radius: of its core, mm, on average.
        core: (X, Y, Z) distance to the core, which necrosis and its enhancing rim fill.
    """

    centre: np.ndarray
    radius: float
    core: np.ndarray


class Brain:
    """One brain being painted on a canvas of cerebrospinal fluid.

    Args:
        canvas: what is painted on.
        shades: (C, 1, 1, 1) for each tissue, its value in each channel.
        rng: what is random comes from here.
    """

    def __init__(self, canvas: Canvas, shades: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        self.canvas, self.shades, self.rng = canvas, shades, rng
        self.size = rng.uniform(0.92, 1.06)
        self.age = rng.uniform(0, 1)  # widens what is filled with fluid
        self.cerebrum = self._cerebrum()
        self.cerebellum, self.stem = self._hindbrain()
        outer = join(self.cerebrum, self.cerebellum, self.stem, blend=14)
        self.outline = self.rough(outer - rng.uniform(0, 1.5) - 1.5 * self.age, 0.8, 25)
        self.tumour = self._tumour() if rng.random() >= WITHOUT_TUMOUR else None

    def draw(self) -> None:
        """Paint everything, from the outside inwards; what comes later lies over what came before."""
        if self.tumour:
            self.push(self.tumour)
        self.hindbrain()
        white = self.cortex()
        ventricles = self.ventricles()
        self.nuclei(ventricles)
        self.vessels(white)
        if self.tumour:
            self.swell(self.tumour, meet(white, -ventricles))
            self.grow(self.tumour)

    def vary(self, middle: float, spread: float) -> float:
        """A number within `spread` of `middle`."""
        return float(self.rng.uniform(middle - spread, middle + spread))

    def rough(self, distance: np.ndarray, depth: float, scale: float) -> np.ndarray:
        """The shape with an outline of its own: dents and bumps about `depth` mm deep and `scale` mm wide."""
        return distance + np.float32(depth) * self.canvas.field(self.rng, scale)

    def shade(self, tissue: str, grain: float = 0.03) -> np.ndarray:
        """(C, X, Y, Z) values of a tissue that is not the same everywhere."""
        return self.shades[tissue] * (1 + np.float32(grain) * self.canvas.field(self.rng, 14))

    def both(self, centre: tuple[float, float, float], radii: tuple[float, float, float], lean: float) -> np.ndarray:
        """A pair of ellipsoids that mirror each other, their tops leaning outwards by `lean` radians."""
        c = self.canvas
        x, y, z = np.array(centre) * self.size
        sides = [c.ellipsoid((side * x, y, z), np.array(radii) * self.size, (side * lean, 0.0)) for side in (-1, 1)]
        return join(*sides)

    def _cerebrum(self) -> np.ndarray:
        """The cerebrum: rounded above, below with temporal lobes and a hollow for the cerebellum."""
        c, s = self.canvas, self.size
        dome = c.ellipsoid((0, 0, 0), np.array([self.vary(67, 4), self.vary(83, 5), self.vary(63, 4)]) * s)
        x, y = c.x / s, c.y / s
        temporal = np.exp(-(((np.abs(x) - 42) / 20) ** 2) - ((y - 6) / 32) ** 2)
        tent = np.exp(-((x / 45) ** 2) - ((y + 42) / 30) ** 2)
        floor = (-25 - self.vary(18, 3) * temporal + self.vary(14, 3) * tent) * s
        return self.rough(meet(dome, (floor - c.z) * 0.9, blend=12), 2, 40)

    def _hindbrain(self) -> tuple[np.ndarray, np.ndarray]:
        """The cerebellum behind, and the brain stem before it."""
        c, s = self.canvas, self.size
        halves = self.both((19, self.vary(-49, 3), -38), (33, 30, self.vary(23, 2)), 0.0)
        stem = c.tube(0, (self.vary(-22, 3) + 0.12 * (c.z + 30)) * s, self.vary(12.5, 1.5) * s)
        pons = c.ellipsoid((0, -13 * s, -30 * s), np.array([16, 12, 14]) * s)
        stem = join(meet(stem, c.z + 5, self.vary(-66, 4) * s - c.z, blend=6), pons, blend=6)
        return self.rough(halves, 1.5, 25), stem

    def _tumour(self) -> Tumour:
        """Anywhere in the cerebrum."""
        c, rng = self.canvas, self.rng
        i, j, k = rng.choice(np.argwhere(self.cerebrum < -7))
        centre = np.array([c.x[i, j, k], c.y[i, j, k], c.z[i, j, k]]) + rng.uniform(-0.5, 0.5, 3) * c.spacing
        radius = rng.uniform(3.5, 7) if rng.random() < TINY else rng.uniform(8, 24)
        tilt = (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5))
        ball = c.ellipsoid(centre, radius * rng.uniform(0.75, 1.25, 3), tilt)
        lumpy = self.rough(ball, 0.2 * radius, max(radius, 8))
        return Tumour(centre, radius, meet(lumpy, self.cerebrum + 1))

    def push(self, tumour: Tumour) -> None:
        """What a tumour does to its neighbourhood: from here on, the canvas lies as if the tumour had no room yet."""
        c = self.canvas
        strength = self.rng.uniform(0.1, 0.5)
        axes = (c.x, c.y, c.z)
        offsets = [axis - np.float32(middle) for axis, middle in zip(axes, tumour.centre, strict=True)]
        away = sum(offset**2 for offset in offsets) / np.float32(2.2 * tumour.radius) ** 2
        for axis, offset in zip(axes, offsets, strict=True):
            axis -= offset * np.float32(strength) * np.exp(-away)

    def hindbrain(self) -> None:
        """Cerebellum, brain stem, and the fourth ventricle between them."""
        c = self.canvas
        folia = np.abs(c.field(self.rng, 12)) * 4 - 0.8
        c.paint(meet(self.cerebellum, -meet(folia, -self.cerebellum - 6)), self.shade("grey"))
        c.paint(self.rough(self.cerebellum + 9, 2, 12), self.shade("white"))
        c.paint(self.stem, self.shade("white"))
        fourth = c.ellipsoid((0, -38 * self.size, -34 * self.size), np.array([6, 4, 9]) * (0.8 + 0.5 * self.age))
        c.paint(fourth, self.shades["fluid"])

    def cortex(self) -> np.ndarray:
        """Grey matter along the folded surface, white matter within; returns the distance to the latter."""
        c, s = self.canvas, self.size
        wide = 0.5 + 1.3 * self.age
        # Where smooth noise changes its sign there is a sheet; down to the depth of a sulcus, it is one.
        noise = c.field(self.rng, 18)
        slope = np.sqrt(sum(step**2 for step in np.gradient(noise, *c.spacing)))
        sulci = meet(np.abs(noise) / (slope + np.float32(0.03)) - wide, -self.cerebrum - self.vary(17, 3), blend=3)
        callosum = c.ellipsoid((0, 0, 2 * s), (60, 42 * s, self.vary(22, 2) * s))
        fissure = meet(np.abs(c.x + 1.5 * c.field(self.rng, 60)) - wide, -callosum)
        height = (self.vary(-6, 2) + 0.25 * c.y) * s + 4 * c.field(self.rng, 40)
        sylvian = meet(np.abs(c.z - height) - 1.5 * wide, 40 * s - np.abs(c.x), np.abs(c.y) - 28 * s)
        grey = meet(self.cerebrum, -sulci, -fissure, -sylvian)
        white = self.rough(grey + self.vary(3.8, 0.4), 0.4, 12)
        c.paint(grey, self.shade("grey"))
        c.paint(white, self.shade("white"))
        return white

    def ventricles(self) -> np.ndarray:
        """The lateral ventricles with their horns and the third one, in a seam of ageing white matter."""
        wide = np.exp(self.rng.normal(0, 0.15)) * (0.65 + 0.75 * self.age)
        front = self.both((9 + 3 * wide, self.vary(10, 3), 13), (7 * wide, self.vary(27, 4), 9 * wide**0.5), 0.3)
        back = self.both((20 + 3 * wide, self.vary(-30, 4), 8), (7 * wide, self.vary(22, 5), 10 * wide**0.5), -0.2)
        third = self.canvas.ellipsoid((0, -6 * self.size, -1 * self.size), (1 + 2.5 * wide, 14, 11))
        lateral = self.rough(join(front, back, blend=10), 1, 20)
        seam = self.rough(lateral - 6 * self.age * self.rng.uniform(0, 1), 2, 15)
        self.canvas.paint(meet(seam, self.cerebrum + 15), self.shade("aged white"))
        self.canvas.paint(lateral, self.shades["fluid"])
        self.canvas.paint(third, self.shades["fluid"])
        return join(lateral, third)

    def nuclei(self, ventricles: np.ndarray) -> None:
        """Thalamus, the head of the caudate, and the lentiform nucleus on each side."""
        for centre, radii, lean in (
            ((12, self.vary(-14, 2), 3), (9, 14, 10), 0.0),
            ((17, self.vary(20, 2), 9), (6, 13, 9), 0.2),
            ((27, self.vary(4, 2), 0), (6, 17, 10), 0.2),
        ):
            nucleus = self.rough(self.both(centre, radii, lean), 0.8, 15)
            self.canvas.paint(meet(nucleus, -ventricles), self.shade("nucleus"))

    def vessels(self, white: np.ndarray) -> None:
        """Vessels between the folds and in the fissure, which take up contrast agent as some tumours do."""
        c = self.canvas
        tubes = (np.abs(c.field(self.rng, 30)) + np.abs(c.field(self.rng, 30))) * 10 - self.vary(1.4, 0.5)
        c.paint(meet(tubes, 1 - white), self.shades["vessel"])

    def swell(self, tumour: Tumour, white: np.ndarray) -> None:
        """Oedema round the core, which spreads along the white matter, hardly into the cortex, never into fluid."""
        reach = tumour.radius * self.rng.uniform(0.15, 0.9) + self.rng.uniform(1, 6)
        spread = self.rough(tumour.core - reach, 0.3 * reach, 16)
        self.canvas.paint(join(meet(spread, white - 1.5), tumour.core - 1), self.shade("oedema", 0.06), OEDEMA)

    def grow(self, tumour: Tumour) -> None:
        """The core: an enhancing rim, thick here and thin there, round what has died off."""
        rim = self.rng.uniform(3, 6) + 0.1 * tumour.radius
        self.canvas.paint(tumour.core, self.shade("rim", 0.08), ENHANCING)
        self.canvas.paint(self.rough(tumour.core + rim, 0.3 * rim, 12), self.shade("necrosis", 0.08), NECROSIS)

"""The anatomy of a phantom: one person, drawn from the skin inwards.

Body coordinates are mm to the right, front and head; the origin lies in the middle of the trunk's cavity, at the
height of the right dome of the diaphragm. Lengths and HU values are those of adults in CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from voxmim.phantoms.shapes import AIR, Canvas, join, meet, superellipse

LABELS: dict[int, str] = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney", 5: "aorta", 6: "spine"}
LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, AORTA, SPINE = LABELS

FAT = -105.0


@dataclass(frozen=True)
class Build:
    """How a person is built; lengths in mm.

    Attributes:
        size: of the organs, 1 for the average adult.
        width, depth: half axes of the trunk's cavity.
        wall: thickness of the muscles around the cavity.
        fat: thickness of the fat under the skin.
        spine: how far the middle of the vertebrae lies behind the origin.
        bend: of the spine, to the front and to the side.
        bend_phase: height at which the sideways bend crosses the midline.
        vertebra: height of a vertebra at the diaphragm.
        shift: of the vertebrae along the spine.
    """

    size: float
    width: float
    depth: float
    wall: float
    fat: float
    spine: float
    bend: tuple[float, float]
    bend_phase: float
    vertebra: float
    shift: float

    @property
    def half_width(self) -> float:
        """Half the width of the whole body."""
        return self.width + self.wall + self.fat

    @property
    def half_depth(self) -> float:
        """Half the depth of the whole body, whose back lies 44 mm further out than its front."""
        return self.depth + self.wall + self.fat + 22


@dataclass(frozen=True)
class Enhancement:
    """HU of what contrast agent changes; `phase` is 0 without agent, 1 arterial, 2 portal venous."""

    phase: int
    aorta: float
    vein: float
    liver: float
    spleen: float
    cortex: float
    medulla: float


def draw_build(rng: np.random.Generator) -> Build:
    """Draw a person's build."""
    size = rng.uniform(0.86, 1.1)
    return Build(
        size=size,
        width=size * rng.uniform(116, 138),
        depth=size * rng.uniform(76, 98),
        wall=rng.uniform(11, 18),
        fat=float(rng.choice([rng.uniform(5, 18), rng.uniform(15, 32)])),
        spine=rng.uniform(8, 22),
        bend=(rng.uniform(3, 13), rng.normal(0, 5)),
        bend_phase=rng.uniform(-200, 100),
        vertebra=size * rng.uniform(27, 31),
        shift=rng.uniform(0, 1),
    )


def draw_enhancement(rng: np.random.Generator) -> Enhancement:
    """Draw the phase of the contrast agent and how strongly each tissue takes it up."""
    phase = int(rng.choice(3, p=[0.2, 0.25, 0.55]))
    agent, fatty = rng.uniform(0.75, 1.25), rng.choice([0.0, rng.uniform(10, 35)], p=[0.7, 0.3])
    taken = np.array([[0, 0, 0, 0, 0, 0], [240, 30, 15, 55, 120, 40], [110, 115, 52, 65, 140, 125]])[phase] * agent
    blood = rng.uniform(36, 46)
    plain = np.array([blood, blood, 58 - fatty, 50, 34, 30]) + rng.normal(0, 3, 6)
    return Enhancement(phase, *(plain + taken).tolist())


class Person:
    """One person being painted on a canvas."""

    def __init__(self, canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
        self.canvas, self.build, self.rng = canvas, build, rng
        self.agent = draw_enhancement(rng)
        x, y, z = canvas.x, canvas.y, canvas.z
        height = z / 100
        # The chest tapers towards the neck, the waist is a little slimmer than the ribs.
        taper = 1 - 0.05 * np.clip(height, 0, None) ** 2 - rng.uniform(0, 0.05) * np.clip(-height - 0.5, 0, 1.5)
        self.cavity = superellipse(x, y, build.width * taper, build.depth * taper)
        belly = build.fat * rng.uniform(0.0, 0.5) * np.clip(-height, 0, 1.5)
        wide = (build.half_width - 6 - belly * 0.2) * (1 - 0.03 * np.clip(height, 0, None) ** 2) + belly * 0.2
        self.skin = superellipse(x, y + 22 - belly * 0.5, wide, build.half_depth - 4 + belly * 0.5)
        self.spine_x = build.bend[1] * np.sin((z - build.bend_phase) / 70)
        self.spine_y = -build.depth + build.spine - build.bend[0] * np.sin((z + 95) * (np.pi / 250))

    def draw(self) -> None:
        """Paint everything, from the outside inwards; what comes later lies over what came before."""
        self.wall()
        self.chest()
        self.muscles()
        self.bowel()
        self.liver()
        self.stomach()
        self.spleen()
        for side, label in ((1, RIGHT_KIDNEY), (-1, LEFT_KIDNEY)):
            self.kidney(side, label)
        self.vessels()
        self.ribs()
        self.spine()
        self.aorta()

    def vary(self, middle: float, spread: float) -> float:
        """A number within `spread` of `middle`."""
        return float(self.rng.uniform(middle - spread, middle + spread))

    def rough(self, distance: np.ndarray, depth: float, scale: float = 45.0) -> np.ndarray:
        """The shape with an outline of its own: dents and bumps about `depth` mm deep and `scale` mm wide."""
        return distance + np.float32(depth) * self.canvas.field(self.rng, scale)

    @cached_property
    def diaphragm(self) -> np.ndarray:
        """(X, Y, Z) height of the diaphragm above the origin: two domes, the right one the higher."""
        c, b = self.canvas, self.build
        left = self.vary(-14, 10)
        domes = [(0.5 * b.width, 0.0, 62.0), (-0.5 * b.width, left, 62.0), (0.0, min(0.0, left) - 6, 40.0)]
        y = (c.y - self.vary(8, 12)) / b.depth
        heights = [
            top - steep * ((c.x - x) / (0.5 * b.width)) ** 2 - 80 * y * y - 25 * np.clip(-y, 0, None)
            for x, top, steep in domes
        ]
        return -self.rough(join(*(-h for h in heights), blend=20), 4, 70)

    def wall(self) -> None:
        """Fat under the skin, the muscles of the trunk's wall, and the fat between the organs."""
        c = self.canvas
        c.paint(self.skin, -20)
        c.paint(self.skin + 3, self.vary(FAT, 8) + 8 * c.field(self.rng, 15))
        c.paint(self.rough(self.cavity - self.build.wall, 2), self.vary(52, 8))
        c.paint(self.cavity, self.vary(FAT, 8) + 12 * c.field(self.rng, 18))

    def chest(self) -> None:
        """Lungs with their vessels, the heart between them, and a windpipe."""
        c, s = self.canvas, self.build.size
        between = np.abs(c.x + 5) - (20 + 6 * c.field(self.rng, 60))
        lungs = meet(self.cavity + 4, self.diaphragm - c.z, -between, blend=8)
        density = self.vary(-830, 50) - self.vary(0.3, 0.3) * c.y  # denser at the back, where they lie
        vessels = 260 * np.clip(np.abs(c.field(self.rng, 14)) - 1.3, 0, 1)
        c.paint(meet(between, self.cavity, self.diaphragm - c.z), 25)  # the mediastinum, mostly soft tissue
        c.paint(lungs, density + vessels)
        heart = (self.vary(-22, 10), self.vary(14, 8), self.vary(32, 10))
        radii = np.array([self.vary(55, 7), self.vary(42, 5), self.vary(46, 6)]) * s
        shape = self.rough(c.ellipsoid(heart, radii, (0.3, -0.2)), 3)
        c.paint(meet(shape, self.diaphragm - c.z + 2, blend=6), 45)
        for dx, dy, tilt in ((-14, 4, 0.3), (24, 4, 0.1)):  # the two halves' blood
            chamber = c.ellipsoid((heart[0] + dx, heart[1] + dy, heart[2]), radii * 0.45, (tilt, 0.0))
            c.paint(chamber, 0.85 * (self.agent.aorta if dx < 0 else self.agent.vein) + 6)
        trunk = meet(c.tube(self.vary(6, 5), heart[1] + 4, self.vary(15, 3)), heart[2] + 20 - c.z)
        c.paint(trunk, self.agent.aorta * 0.95)
        c.paint(meet(c.tube(0.0, heart[1] - 26, 9.0), heart[2] + 25 - c.z), AIR)

    def muscles(self) -> None:
        """The long muscles of the back and, from the first lumbar vertebra downwards, the psoas."""
        c, tone = self.canvas, self.vary(52, 9)
        for side in (-1, 1):
            bulk = self.vary(1, 0.2)
            x = (c.x - self.spine_x - side * 31) / 27
            y = (c.y - self.spine_y + 44) / 21
            c.paint((np.hypot(x, y) - bulk) * 23, tone + 10 * c.field(self.rng, 12))
            growth = np.clip((-95 - c.z) / 130, 0, 1)
            psoas = c.tube(self.spine_x + side * (30 + 14 * growth), self.spine_y - 2, 24 * bulk * growth**0.6)
            c.paint(psoas, tone)

    def bowel(self) -> None:
        """Loops with soft walls and mixed content in the lower and front part of the abdomen."""
        c = self.canvas
        loops = 7 * (c.field(self.rng, 20) - self.vary(-0.2, 0.3))
        room = meet(self.cavity + 8, c.z + self.vary(70, 20) + 0.2 * c.x, self.spine_y + 32 - c.y, blend=10)
        filled = self.rng.choice([self.vary(25, 15), 180.0], p=[0.8, 0.2])
        c.paint(meet(loops, room, blend=4), 42)
        c.paint(meet(loops + 5, room + 4), filled + 15 * c.field(self.rng, 20))
        gas = meet(loops + 6, room + 4, 10 * (1.1 - c.field(self.rng, 40)), self.vary(10, 15) - c.y)
        c.paint(gas, AIR)

    def liver(self) -> None:
        """The liver under the right dome, with veins, at times with lesions, and the gall bladder below it."""
        c, b, rng = self.canvas, self.build, self.rng
        length, left = self.vary(150, 38) * b.size, self.vary(-42, 38) * b.size
        lower = -length + (length - self.vary(48, 12)) * np.clip((b.width - c.x) / (b.width - left), -0.1, 1.3)
        behind = -0.25 * b.depth + 0.75 * np.clip(0.35 * b.width - c.x, 0, None)
        parts = [self.cavity + 4, c.z - self.diaphragm + 4, (lower - c.z) * 0.75, left - c.x]
        medial = (np.minimum(behind, self.vary(30, 12)) - c.y - np.clip(c.x - 0.35 * b.width, 0, None) * 3) * 0.7
        shape = self.rough(meet(*parts, medial, blend=24), self.vary(4.5, 1.5))
        c.paint(shape, self.agent.liver + 5 * c.field(rng, 11), LIVER)
        veins = np.abs(c.field(rng, 42)) + np.abs(c.field(rng, 42)) - 0.13
        c.paint(meet(veins * 22, shape + 8), 0.5 * (self.agent.liver + max(self.agent.vein, 20.0)), LIVER)
        if rng.random() < 1 / 6:
            self.lesions(shape)
        x = self.vary(38, 12)
        z = -length + (length - 50) * (b.width - x) / (b.width - left)
        bladder = c.ellipsoid((x, self.vary(30, 12), z), (self.vary(14, 4), 16, self.vary(24, 7)), (0.3, 0.3))
        c.paint(self.rough(bladder, 2), self.vary(10, 8))

    def lesions(self, liver: np.ndarray) -> None:
        """One to three round lesions deep enough in the liver to lie inside it; they belong to the liver's label."""
        c, rng = self.canvas, self.rng
        places = np.argwhere(liver < -9)
        for _ in range(int(rng.integers(1, 4)) if len(places) else 0):
            i, j, k = places[rng.integers(len(places))]
            radii = self.vary(15, 7) * rng.uniform(0.8, 1.2, 3)
            lesion = self.rough(c.ellipsoid((c.x[i, j, k], c.y[i, j, k], c.z[i, j, k]), radii), 2, 20)
            c.paint(meet(lesion, liver + 3), self.agent.liver - self.vary(45, 20), LIVER)

    def stomach(self) -> None:
        """The stomach under the left dome, half full, with gas in front; the bend of the colon beside it."""
        c, b = self.canvas, self.build
        centre = (self.vary(-0.47, 0.08) * b.width, self.vary(0.22, 0.12) * b.depth, self.vary(-58, 16))
        radii = np.array([self.vary(38, 9), self.vary(34, 8), self.vary(46, 10)]) * b.size
        outside = (self.cavity + 5, c.z - self.diaphragm + 4)
        shape = self.rough(meet(c.ellipsoid(centre, radii, (-0.35, -0.15)), *outside, blend=10), 4)
        c.paint(shape, self.vary(48, 10))
        c.paint(shape + 6, self.rng.choice([self.vary(25, 20), 200.0], p=[0.85, 0.15]) + 12 * c.field(self.rng, 25))
        c.paint(meet(shape + 6, centre[1] + self.vary(14, 14) - c.y), AIR)
        colon = c.ellipsoid((-0.68 * b.width, self.vary(0.3, 0.2) * b.depth, self.vary(-112, 15)), (22, 24, 34))
        colon = self.rough(meet(colon, self.cavity + 5, blend=6), 5, 25)
        c.paint(colon, 38)
        c.paint(colon + 5, self.rng.choice([-60.0, 30.0, -800.0]) + 40 * c.field(self.rng, 14))

    def spleen(self) -> None:
        """The spleen, at the back under the left dome, hollowed on the side of the stomach."""
        c, b = self.canvas, self.build
        size = b.size * self.vary(1, 0.25)
        centre = (self.vary(-0.72, 0.07) * b.width, self.vary(-0.3, 0.16) * b.depth, self.vary(-72, 16))
        radii = np.array([self.vary(36, 5), self.vary(46, 7), self.vary(54, 9)]) * size
        body = c.ellipsoid(centre, radii, (self.vary(0.1, 0.3), self.vary(0.25, 0.3)))
        hollow = c.ellipsoid((centre[0] + 1.5 * radii[0], centre[1] + 34, centre[2] - 8), radii)
        shape = meet(body, -hollow, self.cavity + 4, c.z - self.diaphragm + 4, blend=8)
        # In the arterial phase the pulp lights up in stripes.
        stripes = (22 if self.agent.phase == 1 else 4) * c.field(self.rng, 13)
        c.paint(self.rough(shape, 3), self.agent.spleen + stripes, SPLEEN)

    def kidney(self, side: int, label: int) -> None:
        """A kidney in its capsule of fat beside the spine; `side` is 1 for the right one, which lies lower."""
        c, b = self.canvas, self.build
        z = self.vary(-128, 24) - 6 * side
        x = side * self.vary(62, 8) * b.size + b.bend[1] * np.sin((z - b.bend_phase) / 70)
        y = -b.depth + b.spine + self.vary(6, 9)
        radii = np.array([self.vary(27, 4), self.vary(25, 4), self.vary(53, 8)]) * b.size * self.vary(1, 0.1)
        tilt = (-side * self.vary(0.25, 0.15), -self.vary(0.15, 0.15))
        kidney = self.rough(c.ellipsoid((x, y, z), radii, tilt), 2, 30)
        c.paint(meet(kidney - self.vary(8, 4), self.cavity + 2), FAT)
        hilum = c.ellipsoid((x - side * radii[0], y + 6, z), (0.75 * radii[0], 13, 0.32 * radii[2]), tilt)
        shape = meet(kidney, -hilum, self.cavity + 3, blend=5)
        c.paint(shape, self.agent.cortex, label)
        c.paint(meet(kidney + 8, -hilum + 5), self.agent.medulla, label)

    def vessels(self) -> None:
        """The vena cava, as bright as the aorta in some phases, and the pancreas in front of both."""
        c, b = self.canvas, self.build
        x = self.spine_x + self.vary(20, 5) + 0.02 * (c.z + 100)
        forward = self.vary(27, 4) + 0.3 * np.clip(c.z + 110, 0, None)  # through the back of the liver to the heart
        cava = c.tube(x, self.spine_y + forward, self.vary(11, 2.5))
        vein = self.agent.vein if self.agent.phase != 1 else self.vary(70, 25)
        c.paint(meet(cava, c.z - self.diaphragm - 6), vein)
        height, lean = self.vary(-98, 15), self.vary(-0.3, 0.2)
        axis_y = self.spine_y + 54 - 0.004 * c.x**2
        across = np.hypot(c.y - axis_y, c.z - height - lean * c.x) - self.vary(12, 3)
        pancreas = self.rough(meet(across, np.abs(c.x + 12) - 62 * b.size, blend=6), 3, 25)
        c.paint(pancreas, 40 + 0.5 * (self.agent.liver - 55) + 15 * c.field(self.rng, 10))

    def ribs(self) -> None:
        """Ribs that slope from the spine down to the front, and the breastbone."""
        c, b = self.canvas, self.build
        front = np.arctan2(np.abs(c.x), -c.y) / np.pi  # 0 at the back, 1 at the front
        fall, gap = self.vary(85, 12), b.vertebra
        turn = (c.z + fall * front) / gap + b.shift
        along = np.abs(turn - np.round(turn)) * gap - 5
        shell = np.abs(self.cavity - 0.45 * b.wall) - 4
        end = -120 + 140 * front**2 - c.z
        bone = self.vary(330, 60) - 230 * np.clip(4 * front - 2.8, 0, 1)  # cartilage in front
        c.paint(meet(shell, along, end, 30 - np.abs(c.x)), bone)
        c.paint(meet(shell - 2, np.abs(c.x) - 16, 25 - c.z, -c.y), self.vary(220, 40))

    def spine(self) -> None:
        """Vertebrae with discs between them, arches with their processes behind, and the canal."""
        c, b = self.canvas, self.build
        x, y = c.x - self.spine_x, c.y - self.spine_y
        turn = c.z / b.vertebra + 1.1e-5 * c.z**2 + b.shift  # vertebrae grow taller towards the pelvis
        part = turn - np.floor(turn)  # 0 and 1 in a disc's middle, 0.5 in a vertebra's
        wide = b.size * (1 - 0.0009 * c.z)
        waist = 1.04 - 0.14 * np.sin(np.pi * part) ** 2
        bodies = self.rough(np.hypot(x / 1.28, y) - 16.5 * wide * waist, 0.7, 25)
        disc = np.minimum(part, 1 - part) * b.vertebra - self.vary(3.6, 0.6)
        back = -y - 16 * wide - 8  # how far behind the canal's middle
        arch = np.hypot(x, back) - 15
        low = np.abs(part - 0.42) * b.vertebra
        spinous = meet(np.abs(x) - 4.5, back - 40, -back, np.abs(low + 0.12 * back - 2) - 9)
        transverse = meet(np.abs(x) - 36, np.abs(back - 3) - 5.5, low - 7)
        canal = np.hypot(x, back) - self.vary(8.5, 1)
        bone, marrow = self.vary(330, 70), self.vary(175, 60)
        c.paint(meet(join(arch, spinous, transverse, blend=3), -canal), bone, SPINE)
        c.paint(bodies, bone, SPINE)
        c.paint(meet(bodies + 4, -disc + 2), marrow + 20 * c.field(self.rng, 12), SPINE)
        c.paint(meet(bodies, disc), self.vary(85, 15), SPINE)
        c.paint(canal, self.vary(28, 8))

    def aorta(self) -> None:
        """The aorta, left of the spine in the chest and in front of it below, down to where it divides."""
        c, b = self.canvas, self.build
        radius = self.vary(12.5, 2.5) * b.size + 0.012 * (c.z + 100)
        left = self.vary(-9, 6) - 22 * np.clip((c.z + 60) / 130, 0, 1)
        wind = 4 * np.sin(c.z / self.vary(45, 10) + self.vary(0, 3))
        front = 18.5 * b.size * (1 - 0.0009 * c.z) + radius + 1 - 18 * np.clip((c.z + 60) / 130, 0, 1)
        fork = self.vary(-235, 15)
        apart = np.clip(fork - c.z, 0, None) * 0.45
        x, y = self.spine_x + left + wind, self.spine_y + front
        c.paint(meet(c.tube(x, y, radius), fork - c.z), self.agent.aorta, AORTA)
        for side in (-1, 1):
            c.paint(meet(c.tube(x + side * apart, y - 0.3 * apart, 0.65 * radius), c.z - fork), self.agent.aorta)

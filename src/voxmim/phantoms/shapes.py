"""What phantoms are drawn with: a canvas in body coordinates and signed distances to simple shapes.

A canvas is laid out round a body, painted from the outside inwards, and turned as a scanner stores its voxels. Every
distance is in mm, negative inside and about true near the surface, so that shapes combine by smooth minima and maxima
and their edges can be softened to the width of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxmim.errors import VoxmimError
from voxmim.images.volume import Volume

AIR = -1000.0
Triple = Sequence[float] | np.ndarray


class Canvas:
    """Voxels to paint on, each with its place in the body.

    Attributes:
        x, y, z: (X, Y, Z) float32, mm to the right, front and head of the body's own origin.
        spacing: (3,) mm between voxels.
        values: (C, X, Y, Z) float32, one channel per value of the background; starts as background (air in HU).
        labels: (X, Y, Z) uint8, starts as background.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        z: np.ndarray,
        spacing: np.ndarray,
        background: Sequence[float] | np.ndarray = (AIR,),
    ) -> None:
        self.x, self.y, self.z = x, y, z
        self.spacing = spacing
        self.values = np.stack([np.full(x.shape, value, dtype=np.float32) for value in background])
        self.labels = np.zeros(x.shape, dtype=np.uint8)

    def paint(self, distance: np.ndarray, value: float | np.ndarray, label: int = 0) -> None:
        """Cover what lies inside `distance`; voxels on the edge mix both tissues, those half inside take the label.

        Args:
            distance: (X, Y, Z) mm.
            value: of the tissue; anything that broadcasts to (C, X, Y, Z).
            label: of the tissue.
        """
        edge = float(np.mean(self.spacing))
        box = _bounds(distance < edge / 2)
        share = np.clip(0.5 - distance[box] / edge, 0.0, 1.0)
        inside = np.broadcast_to(np.asarray(value, dtype=np.float32), self.values.shape)[:, *box]
        self.values[:, *box] += share * (inside - self.values[:, *box])
        self.labels[box][share > 0.5] = label

    def field(self, rng: np.random.Generator, scale: float) -> np.ndarray:
        """(X, Y, Z) smooth Gaussian noise of unit variance whose lumps are about `scale` mm wide."""
        weights = [_spline_weights(self.x.shape[axis], self.spacing[axis] / scale) for axis in range(3)]
        knots = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
        for w in weights:  # each turn consumes the first axis and appends the interpolated one
            knots = np.tensordot(knots, w, axes=(0, 1))
        return knots

    def ellipsoid(self, centre: Triple, radii: Triple, tilt: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """An ellipsoid whose long axis leans by `tilt` radians: its top to the right, its top to the front."""
        dz = self.z - np.float32(centre[2])
        dx = self.x - np.float32(centre[0]) - np.float32(np.tan(tilt[0])) * dz
        dy = self.y - np.float32(centre[1]) - np.float32(np.tan(tilt[1])) * dz
        u, v, w = (d * np.float32(1 / r) for d, r in zip((dx, dy, dz), radii, strict=True))
        size = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        u, v, w = (d * np.float32(1 / r) for d, r in zip((u, v, w), radii, strict=True))
        gradient = np.sqrt(u * u + v * v + w * w)
        return size * (size - 1) / (gradient + np.float32(1e-6))

    def tube(self, x: float | np.ndarray, y: float | np.ndarray, radius: float | np.ndarray) -> np.ndarray:
        """A tube that runs from foot to head; its centre and radius may vary with z (arrays (X, Y, Z))."""
        return np.hypot(self.x - x, self.y - y) - radius


def generator(seed: int) -> np.random.Generator:
    """The random numbers of one phantom or of one cohort.

    Raises:
        VoxmimError: the seed is negative.
    """
    if seed < 0:
        raise VoxmimError(f"seed {seed}: a phantom's seed must be 0 or more; choose another.")
    return np.random.default_rng(seed)


def lay_out(
    shape: Sequence[int] | np.ndarray,
    spacing: np.ndarray,
    middle: np.ndarray,
    degrees: float,
    depths: Sequence[float],
    rng: np.random.Generator,
    background: Sequence[float] | np.ndarray = (AIR,),
) -> Canvas:
    """A canvas round a body.

    Args:
        shape: voxels along X, Y, Z, which run right, anterior, superior.
        spacing: (3,) mm.
        middle: (3,) mm, what of the body lies in the grid's middle.
        degrees: how far the body may be turned about each axis.
        depths: mm, how strongly the body is bent along each axis.
        rng: what is random comes from here.
        background: see `Canvas`.
    """
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True)]
    world = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    body = world @ _posture(degrees, rng).astype(np.float32) + middle.astype(np.float32)
    canvas = Canvas(body[..., 0].copy(), body[..., 1].copy(), body[..., 2].copy(), spacing, background)
    for axis, depth in zip((canvas.x, canvas.y, canvas.z), depths, strict=True):
        axis += np.float32(depth) * canvas.field(rng, 110)  # nobody is as straight as the formulas
    return canvas


def turn(array: np.ndarray, affine: np.ndarray, signs: tuple[int, int, int]) -> Volume:
    """The RAS array (C, X, Y, Z) as a volume whose axes run along `signs`; world coordinates are kept."""
    flipped = [axis for axis in range(3) if signs[axis] < 0]
    flip = np.diag([*signs, 1.0])
    flip[flipped, 3] = [array.shape[1 + axis] - 1 for axis in flipped]
    return Volume(np.ascontiguousarray(np.flip(array, tuple(1 + axis for axis in flipped))), affine @ flip)


def superellipse(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """Distance, along the ray from the middle, to a rounded rectangle of half axes `a` and `b`."""
    rho = (np.abs(x / a) ** 2.5 + np.abs(y / b) ** 2.5) ** np.float32(0.4) + np.float32(1e-6)
    return (rho - 1) * np.hypot(x, y) / rho


def meet(*distances: np.ndarray, blend: float = 0.0) -> np.ndarray:
    """What lies inside all shapes, with the edges between them rounded over about `blend` mm."""
    result = distances[0]
    for other in distances[1:]:
        nearness = np.maximum(blend - np.abs(result - other), 0)
        result = np.maximum(result, other)
        if blend:
            result = result + nearness**2 / (4 * blend)
    return result


def join(*distances: np.ndarray, blend: float = 0.0) -> np.ndarray:
    """What lies inside any of the shapes, with the edges between them rounded over about `blend` mm."""
    return -meet(*(-distance for distance in distances), blend=blend)


def _posture(degrees: float, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) rotation by up to some degrees about each axis."""
    rotation = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        about = np.eye(3)
        about[[first, second], [first, second]] = np.cos(angle)
        about[first, second], about[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ about
    return rotation


def _bounds(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around the true voxels (empty slices where there are none)."""
    spans = [np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != axis))) for axis in range(3)]
    return tuple(slice(span[0], span[-1] + 1) if len(span) else slice(0, 0) for span in spans)


def _spline_weights(voxels: int, step: float) -> np.ndarray:
    """(voxels, knots) cubic B-spline weights for points `step` knots apart, scaled so that variance is kept."""
    points = np.arange(voxels) * step + 2
    t = np.abs(points[:, None] - np.arange(int(points[-1]) + 3))
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)

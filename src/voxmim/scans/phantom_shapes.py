"""What phantoms are drawn with: a canvas in body coordinates and signed distances to simple shapes.

Every distance is in mm, negative inside and about true near the surface, so that shapes combine by smooth minima
and maxima and their edges can be softened to the width of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

AIR = -1000.0
Triple = Sequence[float] | np.ndarray


class Canvas:
    """Voxels to paint on, each with its place in the body.

    Attributes:
        x, y, z: (X, Y, Z) float32, mm to the right, front and head of the body's own origin.
        spacing: (3,) mm between voxels.
        hu: (X, Y, Z) float32, starts as air.
        labels: (X, Y, Z) uint8, starts as background.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, spacing: np.ndarray) -> None:
        self.x, self.y, self.z = x, y, z
        self.spacing = spacing
        self.hu = np.full(x.shape, AIR, dtype=np.float32)
        self.labels = np.zeros(x.shape, dtype=np.uint8)

    def paint(self, distance: np.ndarray, hu: float | np.ndarray, label: int = 0) -> None:
        """Cover what lies inside `distance`; voxels on the edge mix both tissues, those half inside take the label."""
        edge = float(np.mean(self.spacing))
        box = _bounds(distance < edge / 2)
        share = np.clip(0.5 - distance[box] / edge, 0.0, 1.0)
        inside = hu[box] if isinstance(hu, np.ndarray) else hu
        self.hu[box] += share * (inside - self.hu[box])
        self.labels[box][share > 0.5] = label

    def field(self, rng: np.random.Generator, scale: float) -> np.ndarray:
        """(X, Y, Z) smooth Gaussian noise of unit variance whose lumps are about `scale` mm wide."""
        weights = [_spline_weights(self.hu.shape[axis], self.spacing[axis] / scale) for axis in range(3)]
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

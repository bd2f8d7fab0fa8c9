"""Drawing phantoms: a canvas in body coordinates, and approximate signed distances to simple shapes.

A shape is an array (X, Y, Z) of distances to its surface in mm, negative inside and accurate near the surface only.
Shapes are combined by minimum and maximum and painted from the outside inwards; edges are blurred over a voxel.
"""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation

from voxmim.errors import VoxmimError
from voxmim.images.grid import Volume

Shape = np.ndarray  # (X, Y, Z) mm
Triple = Sequence[float] | np.ndarray


class Canvas:
    """Voxels to paint on, with their coordinates in a body that is slightly rotated and deformed.

    Args:
        shape: voxels along X, Y, Z, which run right, anterior, superior.
        spacing: (3,) mm.
        middle: (3,) mm, the point of the body at the centre of the grid.
        background: value of each channel.
        rng: random number generator.

    Attributes:
        x, y, z: (X, Y, Z) mm to the right, front and head of the body's origin.
        values: (C, X, Y, Z) float32.
        labels: (X, Y, Z) uint8.
    """

    def __init__(
        self, shape: Sequence[int], spacing: Triple, middle: Triple, background: Triple, rng: np.random.Generator
    ) -> None:
        self.spacing, self.rng = np.asarray(spacing, float), rng
        self.labels = np.zeros(shape, np.uint8)
        self.values = np.stack([np.full(shape, value, np.float32) for value in background])
        axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, self.spacing, strict=True)]
        turned = Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True).as_matrix()
        body = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ turned + middle
        self.x, self.y, self.z = (body[..., axis].astype(np.float32) + 4 * self.noise(110) for axis in range(3))

    def paint(self, shape: Shape, value: float | np.ndarray, label: int = 0) -> None:
        """Set the inside of a shape to values that broadcast to (C, X, Y, Z); voxels on its edge are mixed."""
        inside = np.clip(0.5 - shape / self.spacing.mean(), 0, 1).astype(np.float32)
        self.values += inside * (value - self.values)
        self.labels[inside > 0.5] = label

    def noise(self, scale: float) -> np.ndarray:
        """(X, Y, Z) smooth noise of mean 0 and std 1, with structures about `scale` mm wide."""
        extent = self.spacing * self.labels.shape
        result = self.rng.standard_normal((extent / scale).astype(int) + 4)  # coefficients of cubic B-splines
        for axis, voxels in enumerate(self.labels.shape):
            knots = result.shape[axis]
            result = BSpline(np.arange(knots + 4), result, 3, axis=axis)(np.linspace(3, knots, voxels))
        return ((result - result.mean()) / result.std()).astype(np.float32)

    def rough(self, shape: Shape, depth: float, scale: float = 40.0) -> Shape:
        """The shape with dents and bumps about `depth` mm deep and `scale` mm wide."""
        return shape + np.float32(depth) * self.noise(scale)

    def ellipsoid(self, centre: Triple, radii: Triple, tilt: tuple[float, float] = (0.0, 0.0)) -> Shape:
        """An ellipsoid whose top leans by `tilt` radians to the right and to the front."""
        dz = self.z - centre[2]
        dx, dy = (axis - centre[index] - np.tan(tilt[index]) * dz for index, axis in enumerate((self.x, self.y)))
        size = np.sqrt((dx / radii[0]) ** 2 + (dy / radii[1]) ** 2 + (dz / radii[2]) ** 2)
        return (size - 1) * float(np.prod(radii)) ** (1 / 3)

    def column(
        self, x: float | np.ndarray, y: float | np.ndarray, a: float | np.ndarray, b: float | np.ndarray
    ) -> Shape:
        """An elliptic column from foot to head with half axes `a` and `b` mm; all may vary with height."""
        return (np.hypot((self.x - x) / a, (self.y - y) / b) - 1) * np.sqrt(a * b)

    def vary(self, middle: float, by: float) -> float:
        """A number within `by` of `middle`."""
        return float(self.rng.uniform(middle - by, middle + by))


def intersection(*shapes: Shape, blend: float = 0.0) -> Shape:
    """The intersection of shapes, with the edges between them rounded over about `blend` mm."""
    result = shapes[0]
    for other in shapes[1:]:
        near = np.maximum(blend - np.abs(result - other), 0)
        result = np.maximum(result, other) + (near**2 / (4 * blend) if blend else 0)
    return result


def union(*shapes: Shape, blend: float = 0.0) -> Shape:
    """The union of shapes, with the edges between them rounded over about `blend` mm."""
    return -intersection(*(-shape for shape in shapes), blend=blend)


def volume(array: np.ndarray, spacing: Triple, middle: Triple, signs: tuple[int, int, int]) -> Volume:
    """An array (C, X, Y, Z) in RAS order as a scanner stores it: axes along `signs` (1 or -1), `middle` in world mm."""
    flipped = tuple(1 + axis for axis in range(3) if signs[axis] < 0)
    affine = np.diag([*(np.array(signs) * spacing), 1.0])
    affine[:3, 3] = np.asarray(middle) - affine[:3, :3] @ ((np.array(array.shape[1:]) - 1) / 2)
    return Volume(np.ascontiguousarray(np.flip(array, flipped)), affine)


def generator(seed: int) -> np.random.Generator:
    """The random number generator of a phantom or a cohort; raises VoxmimError for a negative seed."""
    if seed < 0:
        raise VoxmimError(f"seed {seed}: the seed of a phantom must be 0 or more; choose another.")
    return np.random.default_rng(seed)

"""The two types of images: a grid, and a volume of voxels on a grid.

Arrays are indexed (C, X, Y, Z). Affines map a voxel index to world coordinates in mm, whose axes point right, anterior
and superior (RAS+).
"""

from dataclasses import dataclass

import numpy as np

Spacing = tuple[float, float, float]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """The shape and position of voxels."""

    shape: tuple[int, int, int]  # voxels along X, Y, Z
    affine: np.ndarray  # (4, 4), voxel index to RAS+ world mm

    @classmethod
    def of(cls, volume: "Volume") -> "Grid":
        """The grid of a volume."""
        return cls(volume.shape, volume.affine)

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def crop(self, box: tuple[slice, slice, slice]) -> "Grid":
        """The grid of a box of the voxels (starts and stops inside the grid)."""
        x, y, z = (part.stop - part.start for part in box)
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        return Grid((x, y, z), affine)


@dataclass(frozen=True)
class Volume:
    """Voxels and their position."""

    array: np.ndarray  # (C, X, Y, Z)
    affine: np.ndarray  # (4, 4), voxel index (x, y, z, 1) to RAS+ world mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        x, y, z = self.array.shape[1:]
        return x, y, z

    @property
    def spacing(self) -> np.ndarray:
        """(3,) voxel size in mm along X, Y, Z."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def is_invertible(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) is finite and spans all three dimensions, however small its voxels."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0) if np.all(np.isfinite(affine)) else np.zeros(3)
    return bool(np.all(sizes > 0)) and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6

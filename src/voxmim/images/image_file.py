"""An open image file: its header is parsed once, its voxels are read on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from voxmim.errors import ScanError
from voxmim.images.grid import Grid, Volume, is_invertible
from voxmim.text import counted

_SMALLEST, _LARGEST = 1e-7, 1e4  # mm, of a voxel
_CHUNK = 1 << 24  # voxels that are tested at once


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A file of any format, without its voxels."""

    path: Path  # the file, folder or DICOM series
    sizes: tuple[int, ...]  # voxels along X, Y, Z and all further axes in the header
    affine: np.ndarray  # (4, 4), voxel index to RAS+ world mm
    load: Callable[[], np.ndarray]  # reads the voxels, rescaled, in the shape of `sizes`
    doubts: tuple[tuple[str, str], ...] = ()  # (kind of finding, sentence) on a header that is odd but readable
    partial: bool = False  # whether it is a label map that covers only the labelled part of its scan

    def __post_init__(self) -> None:
        if len(self.sizes) < 3:
            raise ScanError(f"{self.path}: a 3D volume is expected, but the file holds {_times(self.sizes)} voxels.")
        if not is_invertible(self.affine):
            raise ScanError(f"{self.path}: its affine is not invertible; repair the header.", "wrong orientation")
        if not all(_SMALLEST < size < _LARGEST for size in self.grid.spacing):
            spacing = _times(tuple(f"{size:.3g}" for size in self.grid.spacing))
            raise ScanError(f"{self.path}: its voxels are {spacing} mm; repair the header.", "wrong orientation")

    @property
    def grid(self) -> Grid:
        """The grid of the voxels."""
        x, y, z = self.sizes[:3]
        return Grid((x, y, z), self.affine)

    def read(self, channels: int = 1) -> Volume:
        """Read the voxels (C, X, Y, Z); a 4D file has several channels, further axes of one voxel are dropped.

        Raises ScanError for another number of channels, a truncated file, or voxels that are not real, finite numbers.
        """
        shape = self.sizes[:3] + tuple(size for size in self.sizes[3:] if size > 1)
        if len(shape) > 4 or (shape[3] if len(shape) == 4 else 1) != channels:
            raise ScanError(
                f"{self.path}: a 3D volume of {counted(channels, 'channel')} is expected, but the file holds "
                f"{_times(shape)} voxels; split it into 3D files or list its channels in dataset.json.",
                "4D" if len(shape) > 3 else "channels",
            )
        array = self.load().reshape(shape)
        if array.dtype.kind not in "iuf":
            raise ScanError(f"{self.path}: its voxels are not real numbers ({array.dtype}); convert it to float32.")
        if bad := _count_not_finite(array):
            voxels = counted(bad, "voxel")
            text = f"{self.path}: {voxels} not finite (NaN or infinite); replace them or leave the scan out."
            raise ScanError(text, "not finite")
        return Volume(np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None], self.affine)

    def read_label(self, grid: Grid) -> Volume:
        """Read a label map for a scan on this grid; one that covers only the labelled part is padded.

        Raises ScanError as `read`, or if the voxels of such a part are not voxels of the scan.
        """
        volume = self.read()
        if not self.partial:
            return volume
        labels = _padded(volume, grid)
        if labels is None:
            text = f"{self.path}: its voxels do not lie on those of its scan; make it from the same series."
            raise ScanError(text, "other grid")
        return Volume(labels[None], grid.affine)


def _padded(part: Volume, grid: Grid) -> np.ndarray | None:
    """The labels (X, Y, Z) of a part on the grid, or None if some are not on its voxels; the axes may differ."""
    voxels = np.argwhere(part.array[0])
    indices = apply_affine(np.linalg.inv(grid.affine) @ part.affine, voxels)
    nearest = np.rint(indices).astype(int)
    if np.abs(indices - nearest).max(initial=0) > 0.05 or np.any(nearest < 0) or np.any(nearest >= grid.shape):
        return None
    result = np.zeros(grid.shape, part.array.dtype)
    result[tuple(nearest.T)] = part.array[0][tuple(voxels.T)]
    return result


def _count_not_finite(array: np.ndarray) -> int:
    if array.dtype.kind != "f":
        return 0
    flat = array.reshape(-1, order="A")  # in memory order, without a copy
    return sum(int(np.count_nonzero(~np.isfinite(flat[at : at + _CHUNK]))) for at in range(0, flat.size, _CHUNK))


def _times(sizes: tuple[object, ...]) -> str:
    return " x ".join(map(str, sizes))

"""DICOM segmentations as label maps: the numbers of the segments are the label values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_frames import foreign_reader
from voxmim.images.formats.dicom_tags import is_segmentation_class, media_class

_MOST = 255  # segments


def is_segmentation(path: Path) -> bool:
    """Tell whether a file is a DICOM segmentation."""
    return is_segmentation_class(media_class(path))


def read_segmentation(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map on the grid of its own frames, which may be fewer than the slices of its scan.

    Returns:
        (X, Y, Z) uint8, and the (4, 4) affine from voxel index to LPS world mm.

    Raises:
        ScanError: its segments overlap, are no plain masks, or lie unevenly; or it cannot be read.
    """
    with foreign_reader(path, "a DICOM segmentation"):
        import highdicom

        segmentation = highdicom.seg.segread(path)
        if max(segmentation.segment_numbers) > _MOST:
            raise ScanError(f"{path}: its segments are numbered beyond {_MOST}; number them anew.")
        try:
            volume = segmentation.get_volume(combine_segments=True, dtype=np.uint8)
        except RuntimeError as error:
            if "overlap" in str(error):
                fault = "its segments overlap, and a voxel has but one label; separate them into several files"
            elif "regularly" in str(error):
                fault = "its frames lie unevenly in space; export it anew"
            else:
                raise
            raise ScanError(f"{path}: {fault}.") from None
        except ValueError as error:
            if "FRACTIONAL" not in str(error):
                raise
            raise ScanError(f"{path}: its segments are shares, not masks; save them as binary segments.") from None
    return volume.array.transpose(2, 1, 0), volume.affine[:, [2, 1, 0, 3]]


def placed(labels: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], onto: np.ndarray) -> np.ndarray | None:
    """Put a label map that covers a part of a scan, perhaps with other axes, on the scan's grid.

    Args:
        labels: (X, Y, Z), 0 where there is nothing.
        affine: (4, 4) of `labels`, voxel index to world mm.
        shape: of the grid wanted.
        onto: (4, 4) of the grid wanted, in the same world.

    Returns:
        the label map with that shape; None where a labelled voxel does not lie on one of the grid.
    """
    found = np.argwhere(labels)
    there = found @ (turn := np.linalg.inv(onto) @ affine)[:3, :3].T + turn[:3, 3]
    nearest = np.rint(there).astype(int)
    if np.abs(there - nearest).max(initial=0) > 0.05 or np.any(nearest < 0) or np.any(nearest >= shape):
        return None
    result = np.zeros(shape, labels.dtype)
    result[tuple(nearest.T)] = labels[tuple(found.T)]
    return result

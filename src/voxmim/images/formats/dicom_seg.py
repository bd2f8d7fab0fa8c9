"""DICOM segmentations as label maps: the numbers of the segments are the label values."""

from pathlib import Path

import numpy as np

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_file import quietly
from voxmim.images.grid import LPS_TO_RAS
from voxmim.images.image_file import ImageFile

_MAX_NUMBER = 255  # of a segment


def open_segmentation(path: Path) -> ImageFile:
    """Read a segmentation as uint8 on the grid of its own frames, which may be fewer than the slices of its scan.

    Raises ScanError if its segments overlap or are not binary, its frames are unevenly spaced, or it cannot be read.
    """
    with quietly(path, "a DICOM segmentation"):
        import highdicom  # slow

        segmentation = highdicom.seg.segread(path)
        if max(segmentation.segment_numbers) > _MAX_NUMBER:
            raise ScanError(f"{path}: its segments are numbered beyond {_MAX_NUMBER}; number them anew.")
        try:
            volume = segmentation.get_volume(combine_segments=True, dtype=np.uint8)
        except (RuntimeError, ValueError) as error:
            faults = {
                "overlap": "its segments overlap, and a voxel has but one label; separate them into several files",
                "regularly": "its frames lie unevenly in space; export it anew",
                "FRACTIONAL": "its segments are fractions, not masks; save them as binary segments",
            }
            fault = next((text for word, text in faults.items() if word in str(error)), None)
            if fault is None:
                raise
            raise ScanError(f"{path}: {fault}.") from None
        array, affine = volume.array.transpose(2, 1, 0), LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return ImageFile(path, array.shape, affine, lambda: array, partial=True)

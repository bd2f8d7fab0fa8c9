"""Reading and writing image files of all formats."""

from pathlib import Path

import nibabel as nib
import numpy as np

from voxmim.errors import ScanError
from voxmim.files import atomic_write
from voxmim.images.formats.dicom import SERIES_ENDING, is_dicom, open_dicom
from voxmim.images.formats.nifti import NIFTI_ENDINGS, open_nifti
from voxmim.images.formats.text_headers import READERS, open_text_header
from voxmim.images.grid import Volume
from voxmim.images.image_file import ImageFile

__all__ = [
    "SCAN_ENDINGS", "ImageFile", "Volume", "case_name", "is_scan", "is_segmentation_name", "open_image", "read_volume",
    "write_volume",
]  # fmt: skip

SCAN_ENDINGS = (".nii", ".nii.gz", ".hdr", *READERS)
_SEGMENTATION_ENDINGS = (".seg.nrrd", ".seg.nhdr")  # of label maps of 3D Slicer
_ENDINGS = sorted((*SCAN_ENDINGS, *_SEGMENTATION_ENDINGS, ".img", ".dcm", SERIES_ENDING), key=len, reverse=True)


def is_scan(path: Path) -> bool:
    """Whether a file that is not hidden has the ending of a scan; of two files, of the header.

    DICOM files are found by `find_series`.
    """
    return path.name.lower().endswith(SCAN_ENDINGS) and not path.name.startswith(".")


def is_segmentation_name(path: Path) -> bool:
    """Whether a file has the ending of a label map of 3D Slicer."""
    return path.name.lower().endswith(_SEGMENTATION_ENDINGS)


def case_name(path: Path) -> str:
    """The name of a file without its ending, such as ``liver_01`` of ``liver_01.nii.gz``, or of a folder."""
    if path.is_dir():
        return path.name
    ending = next((ending for ending in _ENDINGS if path.name.lower().endswith(ending)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def open_image(path: Path | str) -> ImageFile:
    """Parse the header of a scan or label map of any format.

    `path` is a file, a folder with one DICOM series, or the path of a series from `find_series`. Raises ScanError if
    the file is missing, of no known format, or damaged.
    """
    path = Path(path)
    if is_dicom(path):
        return open_dicom(path)
    if not path.is_file():
        raise ScanError(f"{path}: there is no such file; check the path.")
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        return open_nifti(path)
    if path.suffix.lower() in READERS:
        return open_text_header(path)
    raise ScanError(f"{path}: this is no scan; give DICOM or a file of {', '.join(SCAN_ENDINGS)}.")


def read_volume(path: Path | str, channels: int = 1) -> Volume:
    """Read one scan or label map, rescaled, as voxels (C, X, Y, Z) and affine; see `voxmim.read_volume`."""
    return open_image(path).read(channels)


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a volume as NIfTI-1, 4D if it has several channels; raises ScanError if the file cannot be written."""
    path = Path(path)
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    image = nib.Nifti1Image(
        array[0] if len(array) == 1 else np.moveaxis(array, 0, -1), volume.affine, dtype=array.dtype
    )
    cosines = volume.affine[:3, :3] / volume.spacing
    is_rigid = np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-4)
    image.set_sform(volume.affine, 1)
    image.set_qform(volume.affine, 1 if is_rigid else 0)  # a qform cannot represent a shear
    image.header.set_xyzt_units("mm")
    try:
        with atomic_write(path) as temporary:
            nib.save(image, temporary)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(
            f"{path}: cannot be written ({error}); check its ending (.nii.gz), the disk and its rights."
        ) from None

"""A volume in memory, and the one door through which image files are read and written, whatever their format.

Arrays are indexed (C, X, Y, Z) and affines map a voxel index to world millimetres with the world axes
pointing right, anterior and superior (RAS), as NIfTI has it. SimpleITK holds (Z, Y, X) arrays and worlds
pointing left, posterior and superior; both differences are settled here and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxmim.errors import ScanError
from voxmim.files import whole
from voxmim.images.formats.dicom import SERIES_ENDING, is_dicom, read_dicom, read_dicom_header
from voxmim.images.formats.dicom_seg import is_segmentation, placed
from voxmim.images.formats.headers import refuse_boastful, refuse_malformed, refuse_missing
from voxmim.images.formats.nifti import NiftiHeader, read_nifti_header, read_second, refuse_unsound

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Ending to ITK's reader, which is named so that no other takes the file for its own.
_READERS = {
    ".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".hdr": "NiftiImageIO",
    ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO",
}  # fmt: skip
SCAN_ENDINGS = tuple(_READERS)
_OTHER_ENDINGS = (".img", ".dcm", SERIES_ENDING)  # of what can be read, but is no scan of its own in a listing

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # they go past Python, and may quote what a header says


@dataclass(frozen=True)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: (C, X, Y, Z).
        affine: (4, 4), voxel index (x, y, z, 1) to RAS+ world mm.
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        x, y, z = self.array.shape[1:]
        return x, y, z

    @property
    def spacing(self) -> np.ndarray:
        """(3,) voxel size in mm along X, Y, Z."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def is_scan(path: Path) -> bool:
    """Tell whether the file's name ends as a scan's does (hidden files are none).

    Of a scan in two files, the header alone counts; DICOM is listed by `find_series`.
    """
    return path.name.lower().endswith(SCAN_ENDINGS) and not path.name.startswith(".")


def case_name(path: Path) -> str:
    """The file's name without its ending: ``liver_01.nii.gz`` gives ``liver_01``; a folder's name is kept whole."""
    name = path.name
    if path.is_dir():
        return name
    for ending in sorted((*SCAN_ENDINGS, *_OTHER_ENDINGS), key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def read_volume(path: Path | str, channels: int = 1) -> Volume:
    """Read one scan or label map with its values unchanged (rescale slope and intercept applied).

    Args:
        path: a file of any format; a folder that holds one DICOM series; or the path of one series among several,
            as `find_series` gives it.
        channels: how many channels are meant; a 4D file is taken for a scan of that many channels,
            and refused where one channel is meant.

    Raises:
        ScanError: the file is missing, unreadable, cut off, not of the meant dimension, or holds NaN.
    """
    path = Path(path)
    if is_dicom(path):
        array, lps = read_dicom(path)
        _refuse_channels(path, array.shape, channels)
        return Volume(array[None], _LPS_TO_RAS @ lps)
    path, data, second = _opened(path)
    if _READERS[_ending(path)] == "NiftiImageIO":
        refuse_unsound(path, data)
    if second is None:
        image = _read_itk(path)
        array = sitk.GetArrayFromImage(image).transpose()
        if image.GetNumberOfComponentsPerPixel() > 1:
            array = np.moveaxis(array, 0, -1)
        _refuse_channels(path, array.shape, channels)
        affine = _affine_of(image)
    else:
        array, affine = read_second(path, data, second), second.affine
        _refuse_channels(path, array.shape, channels)
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ScanError(f"{path}: its affine is not invertible; repair the header.", "wrong orientation")
    if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
        text = f"{path}: {bad} voxels are not finite (NaN or infinite); replace them or leave the scan out."
        raise ScanError(text, "not finite")
    return Volume(np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None], affine)


def read_label(path: Path | str, shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """Read a label map for a scan of this shape and affine; as `read_volume`, but for DICOM segmentations.

    These hold only the slices that have labels, and are put where they belong on the scan's grid.

    Raises:
        ScanError: as `read_volume`, or a segmentation's voxels are not those of the scan.
    """
    path, volume = Path(path), read_volume(path)
    if not (path.is_file() and is_segmentation(path)):
        return volume
    labels = placed(volume.array[0], volume.affine, shape, affine)
    if labels is None:
        text = f"{path}: its voxels do not lie on those of its scan; make it from the same series."
        raise ScanError(text, "other grid")
    return Volume(labels[None], affine)


def read_header(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """The shape (X, Y, Z) and the affine of a file, without its voxels.

    Raises:
        ScanError: the file is missing, unreadable, or has under three dimensions.
    """
    path = Path(path)
    if is_dicom(path):
        shape, lps = read_dicom_header(path)
        return shape, _LPS_TO_RAS @ lps
    path, _, second = _opened(path)
    if second is None:
        reader = _informed(path)
        size = reader.GetSize()
    else:
        size = second.sizes
    if len(size) < 3:
        raise ScanError(f"{path}: a 3D volume is meant, but the file has {len(size)} dimensions.")
    x, y, z = size[:3]
    return (x, y, z), _affine_of(reader) if second is None else second.affine


def read_sizes(path: Path | str) -> tuple[int, ...]:
    """The voxels of a file along all the axes that its header names, without its voxels.

    Raises:
        ScanError: the file is missing or unreadable.
    """
    path = Path(path)
    if is_dicom(path):
        return read_dicom_header(path)[0]
    path, _, _ = _opened(path)
    header = read_nifti_header(path) if _READERS[_ending(path)] == "NiftiImageIO" else None
    return tuple(_informed(path).GetSize()) if header is None else header.sizes


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a volume of one channel (or, as 4D, of several); the file appears whole or not at all."""
    path = Path(path)
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    if len(array) == 1:
        image = _to_sitk(Volume(array, volume.affine))
    else:
        image = sitk.JoinSeries([_to_sitk(Volume(channel[None], volume.affine)) for channel in array])
    try:
        with whole(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
    except (RuntimeError, OSError) as error:
        raise ScanError(f"{path}: cannot be written ({_reason(error)}); check the disk and its rights.") from None


def _to_sitk(volume: Volume) -> sitk.Image:
    """The volume's first channel as a SimpleITK image with the same geometry.

    ITK wants an orthonormal direction: the shear of an affine, where there is one, is dropped.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].transpose(2, 1, 0)))
    lps = _LPS_TO_RAS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    u, _, v = np.linalg.svd(lps[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _affine_of(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    dimension = image.GetDimension()
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing())[:3]
    affine[:3, 3] = np.asarray(image.GetOrigin())[:3]
    return _LPS_TO_RAS @ affine


def _opened(path: Path) -> tuple[Path, Path, NiftiHeader | None]:
    """The file with the header, the one with the voxels, and the header itself if it is of NIfTI-2."""
    if not path.is_file():
        raise ScanError(f"{path}: there is no such file; check the path.")
    name = path.name.lower()
    if not name.endswith((*SCAN_ENDINGS, ".img")):
        raise ScanError(f"{path}: this is no scan; give DICOM or a file of {', '.join(SCAN_ENDINGS)}.")
    data = path
    if name.endswith((".hdr", ".img")):
        path, data = _partner(path, ".hdr"), _partner(path, ".img")
    if _READERS[_ending(path)] != "NiftiImageIO":
        if _READERS[_ending(path)] == "MetaImageIO":
            refuse_malformed(path)
        refuse_missing(path)
        return path, data, None
    header = read_nifti_header(path)
    if header is None or header.version != 2:
        return path, data, None
    sizes = list(header.sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return path, data, replace(header, sizes=tuple(sizes))


def _partner(path: Path, ending: str) -> Path:
    """The file of the other ending in a pair of .hdr and .img."""
    both = (path.with_suffix(ending), path.with_suffix(ending.upper()), path)
    found = next((file for file in both if file.suffix.lower() == ending and file.is_file()), None)
    if found is None:
        raise ScanError(f"{path}: its other half {path.with_suffix(ending).name} is missing; put the file beside it.")
    return found


def _ending(path: Path) -> str:
    return next(e for e in sorted(_READERS, key=len, reverse=True) if path.name.lower().endswith(e))


def _informed(path: Path) -> sitk.ImageFileReader:
    """An ITK reader that has read the header alone."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[_ending(path)])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove the file.") from None
    return reader


def _read_itk(path: Path) -> sitk.Image:
    reader = _informed(path)
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()))
    if bits is not None and _READERS[_ending(path)] != "NiftiImageIO":
        refuse_boastful(path, prod(reader.GetSize()) * reader.GetNumberOfComponents() * int(bits[1]) // 8)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise ScanError(
            f"{path}: its voxels cannot be read ({_reason(error)}); the file is cut off or damaged, copy it again.",
            "cut off",
        ) from None


def _refuse_channels(path: Path, shape: tuple[int, ...], channels: int) -> None:
    """Refuse an array that is not (X, Y, Z) or, for several channels, (X, Y, Z, C)."""
    if len(shape) not in (3, 4) or (shape[3] if len(shape) == 4 else 1) != channels:
        held = " x ".join(map(str, shape))
        raise ScanError(
            f"{path}: a 3D volume of {channels} channel(s) is meant, but the file holds {held} voxels; "
            "split it into 3D files or list its channels in dataset.json.",
            "4D" if len(shape) > 3 else "channels" if len(shape) == 3 else "unreadable",
        )


def _reason(error: Exception) -> str:
    """The last telling line of an ITK error, which otherwise runs over many lines."""
    text = re.sub(r"\w+\(0x[0-9a-fA-F]+\): ", "", str(error))  # which object of ITK's it was, and where in memory
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (
        lines[-1].removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ").rstrip(".!")[-160:]
        if lines
        else type(error).__name__
    )

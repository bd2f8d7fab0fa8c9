"""A volume in memory, and the only place where image files are read and written.

Arrays are indexed (C, X, Y, Z) and affines map a voxel index to world millimetres with the world axes
pointing right, anterior and superior (RAS), as NIfTI has it. SimpleITK holds (Z, Y, X) arrays and worlds
pointing left, posterior and superior; both differences are settled here and nowhere else.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxmim.errors import ScanError
from voxmim.files import whole

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GZIP = b"\x1f\x8b"
_HEADER = 348  # bytes
_FLOATS = (16, 64)  # the codes of float32 and float64
_PART = 1 << 22  # bytes read at once
SCAN_ENDINGS = (".nii", ".nii.gz")


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
    """Tell whether the file's name ends as a scan's does (hidden files are none)."""
    return path.name.lower().endswith(SCAN_ENDINGS) and not path.name.startswith(".")


def case_name(path: Path) -> str:
    """The file's name without its ending: ``liver_01.nii.gz`` gives ``liver_01``."""
    name = path.name
    for ending in sorted(SCAN_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def read_volume(path: Path | str, channels: int = 1) -> Volume:
    """Read one scan or label map with its values unchanged (rescale slope and intercept applied).

    Args:
        path: the file.
        channels: how many channels are meant; a 4D file is taken for a scan of that many channels,
            and refused where one channel is meant.

    Raises:
        ScanError: the file is missing, unreadable, cut off, not of the meant dimension, or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanError(f"{path}: there is no such file; check the path.")
    _refuse_unsound(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ScanError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove the file.") from None
    dimension, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    size = image.GetSize()
    found = components * (int(np.prod(size[3:])) if dimension > 3 else 1)
    if dimension < 3 or dimension > 4 or found != channels:
        shape = " x ".join(str(n) for n in (*size, *([components] if components > 1 else [])))
        raise ScanError(
            f"{path}: a 3D volume of {channels} channel(s) is meant, but the file holds {shape} voxels; "
            "split it into 3D files or list its channels in dataset.json."
        )
    affine = _affine_of(image)
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ScanError(f"{path}: its affine is not invertible; repair the header.")
    array = sitk.GetArrayFromImage(image)
    if dimension == 4:
        array = array.transpose(0, 3, 2, 1)
    elif components > 1:
        array = array.transpose(3, 2, 1, 0)
    else:
        array = array.transpose(2, 1, 0)[None]
    return Volume(array, affine)


def read_header(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """The shape (X, Y, Z) and the affine of a file, without its voxels.

    Raises:
        ScanError: the file is missing, unreadable, or has under three dimensions.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove the file.") from None
    if reader.GetDimension() < 3:
        raise ScanError(f"{path}: a 3D volume is meant, but the file has {reader.GetDimension()} dimensions.")
    x, y, z = reader.GetSize()[:3]
    return (x, y, z), _affine_of(reader)


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


def _refuse_unsound(path: Path) -> None:
    """Refuse a NIfTI file that is cut off or holds values that are no numbers: ITK reads zeros there, without a word.

    The layout is that of NIfTI-1, https://nifti.nimh.nih.gov; of whole numbers in a zip, the length noted at its end
    is enough, everything else is read through once.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    wrong = f"{path}: the file is cut off or damaged; copy it again."
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = file.read(_HEADER)
            order = next((o for o in "<>" if header[:4] == struct.pack(f"{o}i", _HEADER)), None)
            if order is None or len(header) < _HEADER:
                return  # no NIfTI: ITK says so, or knows it
            dimension, *sizes = struct.unpack_from(f"{order}8h", header, 40)
            kind, bits = struct.unpack_from(f"{order}2h", header, 70)
            start = int(struct.unpack_from(f"{order}f", header, 108)[0])
            left = prod(sizes[:dimension]) * bits // 8
            if kind not in _FLOATS and zipped and _length_noted(path) == (start + left) % 2**32:
                return
            file.seek(start)
            bad = 0
            while left > 0:
                part = file.read(min(left, _PART))
                if not part:
                    raise ScanError(wrong)
                left -= len(part)
                if kind in _FLOATS and len(part) % (bits // 8) == 0:
                    bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(part, f"{order}f{bits // 8}"))))
    except (EOFError, OSError, zlib.error):
        raise ScanError(wrong) from None
    if bad:
        raise ScanError(f"{path}: {bad} voxels are not finite (NaN or infinite); replace them or leave the scan out.")


def _length_noted(path: Path) -> int:
    """The length of what is zipped, modulo 2^32, as noted in the zip's last four bytes."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", file.read(4))[0])


def _reason(error: Exception) -> str:
    """The last telling line of an ITK error, which otherwise runs over many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ").rstrip(".!")[-160:] if lines else type(error).__name__

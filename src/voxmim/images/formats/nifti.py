"""NIfTI-1 and NIfTI-2 (https://nifti.nimh.nih.gov), zipped or not, in one file or a pair.

nibabel parses the header. The voxels are read here, so that no memory is allocated for voxels that a truncated file
claims but does not have.
"""

import io
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxmim.errors import ScanError
from voxmim.images.formats.unzip import GZIP, Unzipped, ZipError
from voxmim.images.grid import is_invertible
from voxmim.images.image_file import ImageFile

NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img")
_NESTED = 3  # how often a file may be zipped
_CHUNK = 1 << 20  # bytes
_RATIO = 1100  # largest compression ratio of deflate
_MM = {1: 1e3, 3: 1e-3}  # factors to mm of the unit codes of metres and micrometres
_ZIP_ERRORS = (EOFError, OSError, OverflowError, ValueError, ZipError, MemoryError)


@np.errstate(all="ignore")  # invalid header values are checked afterwards
def open_nifti(path: Path) -> ImageFile:
    """Parse the header of a NIfTI file.

    The affine is the sform if it is set and invertible, else the qform, else nibabel's base affine (LAS, with the
    origin in the middle). Raises ScanError for a damaged header, and for Analyze, which does not define left and right.
    """
    data = path
    if path.suffix.lower() in (".hdr", ".img"):
        path, data = _half(path, ".hdr"), _half(path, ".img")
    header, first = _parsed(path), data == path
    dimension, *sizes = (int(size) for size in header["dim"])
    shape, start = tuple(sizes[: max(0, dimension)]), float(header["vox_offset"])
    start = float(header.single_vox_offset) if first and start == 0 else start
    if not (1 <= dimension <= 7 and min(shape) > 0 and 0 <= start < 1 << 62):
        raise _damaged(path)
    dtype, slope, intercept = _type_of(path, header), float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:  # no rescaling by the standard
        slope, intercept = 1.0, 0.0
    elif not np.isfinite(intercept):
        raise ScanError(f"{path}: its rescale intercept is {intercept}; repair the header.")
    scale = _MM.get(int(header["xyzt_units"]) & 7, 1.0)
    affine, doubts = _oriented(path, header, scale)

    @np.errstate(all="ignore")
    def load() -> np.ndarray:
        array = _voxels(data, int(start), prod(shape), dtype)
        if (slope, intercept) != (1, 0):
            array = array.astype(np.result_type(dtype, np.float32), copy=False)
            array *= slope
            array += intercept
        return array.reshape(shape, order="F")

    return ImageFile(path, shape, affine, load, tuple(doubts))


def _parsed(path: Path) -> Any:
    """The header, with positive voxel sizes; their signs have no meaning in the standard."""
    try:
        with _content(path) as file:
            content = file.read(540)
    except _ZIP_ERRORS:
        raise _damaged(path) from None
    for order in "<>":
        length = int.from_bytes(content[:4], "little" if order == "<" else "big")
        kind = {348: nib.Nifti1Header, 540: nib.Nifti2Header}.get(length)
        if kind is not None and len(content) >= length:
            header = kind(content[:length], order, check=False)
            if bytes(header["magic"])[:2] not in (b"n+", b"ni"):
                text = f"{path}: an Analyze file does not say which side is left; convert the scan anew, to NIfTI."
                raise ScanError(text, "no orientation")
            sizes = header["pixdim"].copy()
            header["pixdim"] = [-1 if sizes[0] < 0 else 1, *np.abs(sizes[1:])]
            return header
    raise ScanError(f"{path}: cannot be read as an image (it is no NIfTI file); replace or remove the file.")


def _type_of(path: Path, header: Any) -> np.dtype:
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (KeyError, nib.spatialimages.HeaderDataError):
        dtype = np.dtype("V1")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = nib.nifti1.data_type_codes.label.get(int(header["datatype"]), f"type {header['datatype']}")
        raise ScanError(f"{path}: its voxels are not plain real numbers ({name}); convert it to int16 or float32.")
    return dtype


def _oriented(path: Path, header: Any, scale: float) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The affine to world mm, and doubts about it; `scale` converts the header's unit to mm."""
    to_mm = np.diag([scale, scale, scale, 1])
    given = {"sform": header.get_sform(coded=True)[0], "qform": _qform(header)}
    forms = {name: to_mm @ form for name, form in given.items() if form is not None}
    bad = [name for name, form in forms.items() if not is_invertible(form)]
    used = next((form for name, form in forms.items() if name not in bad), None)
    if used is None and bad:
        raise ScanError(f"{path}: its {bad[0]} is not invertible; repair the header.", "wrong orientation")
    if used is None:
        text = f"{path}: neither sform nor qform is set; which side is left is a guess."
        return to_mm @ header.get_base_affine(), [("no orientation", text)]
    faults = [f"its {name} is not invertible, and the other one is taken; repair the header" for name in bad]
    if "sform" in forms and not bad:
        same_world = header["sform_code"] == header["qform_code"]
        faults = list(_contradictions(forms["sform"], forms.get("qform"), header["pixdim"][1:4] * scale, same_world))
    return used, [("wrong orientation", f"{path}: {fault}.") for fault in faults]


def _qform(header: Any) -> np.ndarray | None:
    try:
        return header.get_qform(coded=True)[0]
    except (ValueError, nib.spatialimages.HeaderDataError):  # its quaternion is longer than 1
        return np.zeros((4, 4))


def _contradictions(sform: np.ndarray, qform: np.ndarray | None, zooms: np.ndarray, same_world: bool) -> Iterator[str]:
    """Contradictions in a header; sform and qform of different coordinate systems must only agree on left and right."""
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(sizes, zooms, rtol=0.01, atol=0):
        listed, own = (" x ".join(f"{size:.3g}" for size in three) for three in (zooms, sizes))
        yield f"the voxel size is {listed} mm by pixdim, but {own} mm by the sform, which is taken"
    cosines = sform[:3, :3] / sizes
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-3):
        yield "the axes of its sform are not at right angles"
    if qform is not None and (
        not np.allclose(sform, qform, rtol=1e-3, atol=1e-2 * min(1.0, sizes.min()))
        if same_world
        else np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    ):
        yield "sform and qform differ; the sform is taken"


def _voxels(path: Path, start: int, count: int, dtype: np.dtype) -> np.ndarray:
    """(count,) numbers in native byte order."""
    held, needed = path.stat().st_size, count * dtype.itemsize
    try:
        with _content(path) as file:
            zipped = isinstance(file.raw, Unzipped)
            if needed > held * (_RATIO**_NESTED if zipped else 1):
                raise EOFError
            while start > 0:
                start -= (read := len(file.read(min(start, _CHUNK))))
                if not read:
                    raise EOFError
            array = np.empty(count, dtype)  # memory is not used before it is written to
            if file.readinto(memoryview(array).cast("B")) < needed:  # type: ignore[arg-type]
                raise EOFError
            if zipped:
                file.read(1)  # checks the checksum after the voxels
    except _ZIP_ERRORS:
        raise _damaged(path) from None
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _content(path: Path) -> io.BufferedReader:
    """The content of a file, unzipped as often as it is zipped, whatever its name."""
    file = path.open("rb")
    for _ in range(_NESTED):
        if file.peek(2)[:2] != GZIP:
            break
        file = io.BufferedReader(Unzipped(file))
    return file


def _half(path: Path, ending: str) -> Path:
    """The file with this ending in a pair of .hdr and .img."""
    for file in (path.with_suffix(ending), path.with_suffix(ending.upper()), path):
        if file.suffix.lower() == ending and file.is_file():
            return file
    raise ScanError(f"{path}: its other half {path.with_suffix(ending).name} is missing; put the file beside it.")


def _damaged(path: Path) -> ScanError:
    return ScanError(f"{path}: the file is cut off or damaged; copy it again.", "cut off")

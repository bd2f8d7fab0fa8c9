"""What a NIfTI file says of itself: is it whole, where do its voxels lie, and, of the second version, the voxels.

ITK reads the first version, but reads zeros where a file is cut off or holds values that are no numbers, and knows
nothing of the second. The layout of both is at https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxmim.errors import ScanError

_GZIP = b"\x1f\x8b"
_FLOATS = (16, 64)  # the codes of float32 and float64
_PART = 1 << 22  # bytes read at once
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Field to its place and struct format, for both versions; the first number of a header is its length in bytes.
_LAYOUTS = {
    348: {
        "magic": (344, "4s"), "dim": (40, "8h"), "kind": (70, "2h"), "pixdim": (76, "8f"), "start": (108, "f"),
        "scale": (112, "2f"), "codes": (252, "2h"), "quatern": (256, "6f"), "srow": (280, "12f"),
    },
    540: {
        "magic": (4, "8s"), "dim": (16, "8q"), "kind": (12, "2h"), "pixdim": (104, "8d"), "start": (168, "q"),
        "scale": (176, "2d"), "codes": (344, "2i"), "quatern": (352, "6d"), "srow": (400, "12d"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a NIfTI header that tells of voxels and geometry.

    Attributes:
        version: 1 or 2; 0 is Analyze 7.5, from which NIfTI came.
        order: ``<`` or ``>``, the order of bytes.
        sizes: voxels along each axis.
        kind: the code of the voxels' type.
        bits: per voxel.
        start: the first voxel's byte.
        slope: rescale slope; 0 where voxels are not rescaled.
        intercept: rescale intercept.
        sform: (4, 4) affine to RAS+ mm, or None where its code is 0.
        qform: (4, 4) affine to RAS+ mm, or None where its code is 0.
        sform_code: what the world of the sform is.
        qform_code: the same of the qform.
        zooms: (3,) voxel size in mm.
    """

    version: int
    order: str
    sizes: tuple[int, ...]
    kind: int
    bits: int
    start: int
    slope: float
    intercept: float
    sform: np.ndarray | None
    qform: np.ndarray | None
    sform_code: int
    qform_code: int
    zooms: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel index to RAS+ mm, of the form that ITK prefers too."""
        if self.sform is not None and (self.sform_code == 1 or self.qform is None):
            return self.sform
        return self.qform if self.qform is not None else np.diag([*self.zooms * (-1, -1, 1), 1.0])


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """The header of a NIfTI (or Analyze) file; None where the file is none.

    Raises:
        ScanError: the zip round it is damaged.
    """
    try:
        with _opened(path) as file:
            content = file.read(540)
    except (EOFError, OSError, zlib.error):
        raise _damaged(path) from None
    for order in "<>":
        layout = _LAYOUTS.get(struct.unpack(f"{order}i", content[:4])[0]) if len(content) >= 348 else None
        if layout is not None and (layout is _LAYOUTS[348] or len(content) == 540):
            return _parsed(content, layout, order)
    return None


def refuse_unsound(path: Path, data: Path) -> None:
    """Refuse a NIfTI file that is cut off, or whose floats are no numbers, and Analyze, which lacks the orientation.

    Of whole numbers in a zip, the length noted at its end is enough; everything else is read through once.

    Args:
        path: the file with the header.
        data: the file with the voxels: the same, or the .img of a pair.

    Raises:
        ScanError: as said.
    """
    header = read_nifti_header(path)
    if header is None:
        return  # no NIfTI: ITK says so
    if header.version == 0:
        text = f"{path}: an Analyze file does not tell left from right; convert the scan anew, to NIfTI."
        raise ScanError(text, "no orientation")
    if header.version == 2 and (header.start < 0 or min(header.sizes, default=0) < 1):
        raise _damaged(path)
    left = prod(max(0, size) for size in header.sizes) * header.bits // 8
    try:
        if header.kind not in _FLOATS and _is_zipped(data) and _length_noted(data) == (header.start + left) % 2**32:
            return
        with _opened(data) as file:
            file.seek(max(0, header.start))
            bad = 0
            while left > 0:
                part = file.read(min(left, _PART))
                if not part:
                    raise _damaged(data)
                left -= len(part)
                if header.kind in _FLOATS and header.bits in (32, 64) and len(part) % (header.bits // 8) == 0:
                    values = np.frombuffer(part, f"{header.order}f{header.bits // 8}")
                    bad += int(np.count_nonzero(~np.isfinite(values)))
    except (EOFError, OSError, OverflowError, ValueError, zlib.error):
        raise _damaged(data) from None
    if bad:
        text = f"{path}: {bad} voxels are not finite (NaN or infinite); replace them or leave the scan out."
        raise ScanError(text, "not finite")


def read_second(path: Path, data: Path, header: NiftiHeader) -> np.ndarray:
    """The voxels of a sound NIfTI-2 file, rescaled, shaped as the header says (X, Y, Z and what follows).

    Raises:
        ScanError: its voxels are of a type that no scan has.
    """
    if header.kind not in _DTYPES or np.dtype(_DTYPES[header.kind]).itemsize * 8 != header.bits:
        raise ScanError(f"{path}: its voxels are of type {header.kind}, which is no plain number; convert the file.")
    dtype = np.dtype(f"{header.order}{_DTYPES[header.kind]}")
    with _opened(data) as file:
        file.seek(header.start)
        content = file.read(prod(header.sizes) * dtype.itemsize)
    array = np.frombuffer(content, dtype).reshape(header.sizes, order="F").astype(dtype.newbyteorder("="))
    if header.slope in (0.0, 1.0) and (header.slope == 0 or header.intercept == 0):
        return array
    return (array * header.slope + header.intercept).astype(np.float32)


def orientation_faults(path: Path) -> list[tuple[str, str]]:
    """What is odd in the orientation of a NIfTI file: the kind of the finding, and one sentence; most can be read.

    An sform and a qform may differ where they are of different worlds, but not in which side is left.
    """
    header = read_nifti_header(path)
    if header is None or header.version == 0:
        return []
    if header.sform is None and header.qform is None:
        return [("no orientation", f"{path}: neither sform nor qform is set; which side is left is a guess.")]
    return [("wrong orientation", text) for text in _contradictions(path, header)]


def _contradictions(path: Path, header: NiftiHeader) -> list[str]:
    faults = []
    forms = {"sform": header.sform, "qform": header.qform}
    for name, form in forms.items():
        if form is not None and (not np.all(np.isfinite(form)) or abs(np.linalg.det(form[:3, :3])) < 1e-12):
            faults.append(f"{path}: its {name} is not invertible; repair the header.")
    if faults or header.sform is None:
        return faults
    sizes = np.linalg.norm(header.sform[:3, :3], axis=0)
    if not np.allclose(sizes, header.zooms, rtol=0.01):
        told, meant = (" x ".join(f"{size:.3g}" for size in three) for three in (header.zooms, sizes))
        faults.append(f"{path}: the voxel size is {told} mm by pixdim, but {meant} mm by the sform.")
    cosines = (header.sform[:3, :3] / sizes).T @ (header.sform[:3, :3] / sizes)
    if not np.allclose(cosines, np.eye(3), atol=1e-3):
        faults.append(f"{path}: the axes of its sform are not at right angles.")
    if header.qform is not None and (
        not np.allclose(header.sform, header.qform, rtol=1e-3, atol=1e-2)
        if header.sform_code == header.qform_code
        else np.linalg.det(header.sform[:3, :3]) * np.linalg.det(header.qform[:3, :3]) < 0
    ):
        used = "sform" if header.sform_code == 1 else "qform"
        faults.append(f"{path}: sform and qform differ; the {used} is taken.")
    return faults


def _parsed(content: bytes, layout: dict[str, tuple[int, str]], order: str) -> NiftiHeader:
    def get(field: str) -> Any:
        place, form = layout[field]
        return struct.unpack_from(f"{order}{form}", content, place)

    second = layout is _LAYOUTS[540]
    magic = get("magic")[0]
    dimension, *sizes = get("dim")
    (kind, bits), (slope, intercept) = get("kind"), get("scale")
    (start,), (qcode, scode), pixdim = get("start"), get("codes"), get("pixdim")
    with np.errstate(all="ignore"):
        qform = _qform(get("quatern"), pixdim) if qcode > 0 else None
    return NiftiHeader(
        version=2 if second else int(magic[:2] in (b"n+", b"ni")),
        order=order,
        sizes=tuple(sizes[: max(0, min(7, dimension))]),
        kind=kind,
        bits=bits,
        start=int(start) if np.isfinite(start) else 0,
        slope=slope if np.isfinite(slope) and np.isfinite(intercept) else 0.0,
        intercept=intercept,
        sform=np.array([*get("srow"), 0, 0, 0, 1], dtype=float).reshape(4, 4) if scode > 0 else None,
        qform=qform,
        sform_code=scode,
        qform_code=qcode,
        zooms=np.abs(pixdim[1:4]),
    )


def _qform(values: tuple[float, ...], pixdim: tuple[float, ...]) -> np.ndarray:
    """The affine of a unit quaternion (its three last parts), an offset, the voxel size and the third axis's sign."""
    b, c, d = np.asarray(values[:3], dtype=float)
    a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * np.abs(pixdim[1:4]) * (1, 1, -1 if pixdim[0] < 0 else 1)
    affine[:3, 3] = values[3:]
    return affine


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if _is_zipped(path) else path.open("rb")  # type: ignore[return-value]


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _length_noted(path: Path) -> int:
    """The length of what is zipped, modulo 2^32, as noted in the zip's last four bytes."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", file.read(4))[0])


def _damaged(path: Path) -> ScanError:
    return ScanError(f"{path}: the file is cut off or damaged; copy it again.", "cut off")

"""Scans among DICOM files: a folder of any depth sorted into series, each judged and, if sound, read.

A series is called by its modality and a hash of its number, as ``MR-3fa2b1c0``, so that names of patients, dates
and descriptions are never copied. Its path is the folder that holds it, or, where the folder holds several, its one
file of many frames, or that folder and the series' name with an ending that no file has:
``FOLDER/MR-3fa2b1c0.series``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_frames import read_frames, stack_frames
from voxmim.images.formats.dicom_seg import is_segmentation, read_segmentation
from voxmim.images.formats.dicom_stack import stack
from voxmim.images.formats.dicom_tags import UNREADABLE, Slice, is_dicom_file, read_slice

SERIES_ENDING = ".series"
_REMEMBERED = 16  # folders


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one scan, or what is no scan.

    Attributes:
        path: what `read_volume` takes.
        name: modality and a hash, unique in its folder.
        modality: ``CT``, ``MR`` and so on.
        files: along the normal of the slices, or one file of many frames.
        shape: voxels along X, Y, Z.
        affine: (4, 4) voxel index to LPS world mm.
        notes: what was odd and is settled, one sentence each.
        fault: why it is left out, one sentence, or None.
        kind: of the findings that notes and fault make.
    """

    path: Path
    name: str
    modality: str
    files: tuple[Path, ...]
    shape: tuple[int, int, int] = (0, 0, 0)
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    notes: tuple[str, ...] = ()
    fault: str | None = None
    kind: str = "dicom series"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def find_series(folder: Path | str) -> list[Series]:
    """Sort the DICOM files below a folder (hidden ones aside) into series, by name; those left out have a fault."""
    folder = Path(folder)
    seen = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                file = Path(place, name)
                try:
                    state = file.stat()
                except OSError:
                    continue
                seen.append((file, state.st_size, state.st_mtime_ns))
    return list(_sorted_into_series(tuple(seen)))


def is_dicom(path: Path) -> bool:
    """Tell whether `path` is a folder, a series in a folder, or a DICOM file."""
    return path.is_dir() or _is_series(path) or is_dicom_file(path)


def read_dicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the one series of a folder, a series of several, an enhanced file, or a DICOM segmentation.

    Returns:
        (X, Y, Z) rescaled values, and the (4, 4) affine from voxel index to LPS world mm.

    Raises:
        ScanError: there is no series here, there are several, it is left out, or it cannot be read.
    """
    if path.is_file() and is_segmentation(path):
        return read_segmentation(path)
    series = _wanted(path)
    if len(series.files) == 1:
        return read_frames(series.files[0]), series.affine
    slices = [_read_slice(file) for file in series.files]
    return np.stack(slices, axis=-1), series.affine


def read_dicom_header(path: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """The shape and the LPS affine of what `read_dicom` would read.

    Raises:
        ScanError: as `read_dicom`.
    """
    if path.is_file() and is_segmentation(path):
        array, affine = read_segmentation(path)
        x, y, z = array.shape
        return (x, y, z), affine
    series = _wanted(path)
    return series.shape, series.affine


def _wanted(path: Path) -> Series:
    """The series that a path means."""
    if path.is_file():
        found = _as_series([read_slice(path)], 1)
        if found.fault == "it has one slice only":
            raise ScanError(f"{path}: this is one slice of a series; give its folder.")
        return _sound(replace(found, path=path))
    if _is_series(path):
        named = [series for series in find_series(path.parent) if series.name == path.stem]
        if not named:
            raise ScanError(f"{path}: {path.parent} holds no series of this name; look for its series anew.")
        return _sound(named[0])
    found_here = find_series(path)
    sound = [series for series in found_here if series.fault is None]
    if len(sound) > 1:
        some = ", ".join(series.name for series in sound[:5]) + (", ..." if len(sound) > 5 else "")
        raise ScanError(f"{path}: {len(sound)} DICOM series lie here ({some}); name one, as {sound[0].path}.")
    if not found_here:
        raise ScanError(f"{path}: there is no DICOM file in this folder; check the path.")
    if not sound:
        more = f" (and {len(found_here) - 1} more are left out)" if len(found_here) > 1 else ""
        raise ScanError(f"{path}: {found_here[0].fault}{more}; no scan is left in this folder.")
    return sound[0]


def _sound(series: Series) -> Series:
    if series.fault is not None:
        raise ScanError(f"{series.path}: {series.fault}; export it anew or leave it out.")
    return series


def _is_series(path: Path) -> bool:
    return path.suffix == SERIES_ENDING and path.parent.is_dir() and not path.exists()


@lru_cache(maxsize=_REMEMBERED)
def _sorted_into_series(seen: tuple[tuple[Path, int, int], ...]) -> tuple[Series, ...]:
    """The series of these files; size and time of change tell a file that was replaced from the one remembered."""
    groups: dict[tuple[str, str | None, Path | None], list[list[Slice]]] = {}
    for path, _, _ in seen:
        if is_dicom_file(path):
            found = read_slice(path)
            kinds = groups.setdefault((found.series, found.fault, path if found.enhanced else None), [])
            kind = next((kind for kind in kinds if kind[0].like(found)), None)
            if kind is None:
                kinds.append([found])
            else:
                kind.append(found)
    series, taken = [], set[str]()
    for kinds in groups.values():
        for slices in kinds:
            found_series = _as_series(slices, len(kinds))
            name, twins = found_series.name, 1
            while name in taken:
                twins += 1
                name = f"{found_series.name}-{twins}"
            taken.add(name)
            series.append(replace(found_series, name=name))
    return tuple(sorted(_with_paths(series), key=lambda each: each.name))


def _with_paths(series: list[Series]) -> Iterable[Series]:
    """Give each series its path: its folder, if no other sound series lies there, or else its one file or its name."""
    homes = [Path(os.path.commonpath([file.parent for file in each.files])) for each in series]
    for each, home in zip(series, homes, strict=True):
        alone = each.fault is None and not any(
            other.fault is None and other is not each and any(file.is_relative_to(home) for file in other.files)
            for other in series
        )
        of_frames = each.fault is None and len(each.files) == 1
        named = each.files[0] if of_frames else home / f"{each.name}{SERIES_ENDING}"
        yield replace(each, path=home if alone else named)


def _as_series(slices: list[Slice], kinds: int) -> Series:
    """Judge slices that belong together."""
    first = slices[0]
    number = hashlib.sha256(first.series.encode(errors="replace")).hexdigest()[:8]
    series = Series(first.path.parent, f"{first.modality}-{number}", first.modality, tuple(s.path for s in slices))
    if first.fault is not None:
        files = f"{len(slices)} file{'s' if len(slices) > 1 else ''}"
        text = f"{files} hold{'' if len(slices) > 1 else 's'} {first.fault}"
        return replace(series, fault=text, kind="unreadable" if first.fault == UNREADABLE else "no scan")
    if first.enhanced:
        frames = stack_frames(first.path)
        return replace(series, shape=frames.shape, affine=frames.affine, fault=frames.fault)
    notes = []
    if kinds > 1:
        notes.append(f"its slices are of {kinds} orientations or sizes; each is a scan of its own")
    normal = np.cross(first.across, first.down)
    stacked = stack(np.array([each.position for each in slices]), normal, min(first.spacing))
    fault = stacked.fault and stacked.fault.format(*(slices[index].path.name for index in stacked.where))
    if stacked.doubles:
        if all(_same_voxels(slices[a].path, slices[b].path) for a, b in stacked.doubles):
            notes.append(f"{len(stacked.doubles)} doubled slices are taken once")
        else:
            a, b = (slices[index].path.name for index in stacked.doubles[0])
            fault = f"{a} and {b} lie at the same place with different voxels (several times or echoes in one series)"
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[0], first.down * first.spacing[1]
    affine[:3, 2] = normal * stacked.spacing
    affine[:3, 3] = slices[stacked.order[0]].position
    return replace(
        series,
        files=tuple(slices[index].path for index in stacked.order),
        shape=(*first.size, len(stacked.order)),
        affine=affine,
        notes=tuple(notes),
        fault=fault,
    )


def _same_voxels(a: Path, b: Path) -> bool:
    try:
        return np.array_equal(_read_slice(a), _read_slice(b))
    except ScanError:
        return False


def _read_slice(path: Path) -> np.ndarray:
    """(X, Y) rescaled values."""
    try:
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError:
        text = f"{path}: its voxels cannot be read; the file is cut off or damaged, copy it again."
        raise ScanError(text, "cut off") from None
    return sitk.GetArrayFromImage(image)[0].T

"""DICOM series: sorting the files of a folder into series, checking and reading them.

The name of a series is its modality and a hash of its UID, such as ``MR-3fa2b1c0``, so that names of patients, dates
and descriptions are never copied. Its path is its folder; if the folder has several series, the path is the series'
single file of many frames, or ``FOLDER/NAME.series``, which is not a file.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_file import is_dicom_file, is_segmentation, read_pixels
from voxmim.images.formats.dicom_planes import UNREADABLE, Planes, read_planes
from voxmim.images.formats.dicom_seg import open_segmentation
from voxmim.images.formats.dicom_stack import Stack, stack
from voxmim.images.grid import LPS_TO_RAS, Grid
from voxmim.images.image_file import ImageFile
from voxmim.images.walk import files_below, printable
from voxmim.text import counted

SERIES_ENDING = ".series"
_REMEMBERED = 16  # folders
Plane = tuple[Planes, int]  # a file, and which of its planes


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one scan, or files that are no scan."""

    path: Path  # the argument of `read_volume`
    name: str  # modality and a hash, unique in its folder
    modality: str  # ``CT``, ``MR`` and so on
    files: tuple[Path, ...]  # of its slices, or one of many frames
    planes: tuple[Plane, ...] = field(default=(), repr=False)  # sorted along their normal; empty without a volume
    grid: Grid = field(default_factory=lambda: Grid((0, 0, 0), np.eye(4)), repr=False)
    notes: tuple[str, ...] = ()  # sentences on repairs
    fault: str | None = None  # why it is left out, one sentence, or None
    kind: str = "dicom series"  # of the findings on notes and fault

    def load(self) -> np.ndarray:
        """(X, Y, Z) rescaled values; raises ScanError if a file cannot be read."""
        rescale = np.array([planes.rescale[at] for planes, at in self.planes])
        integer = bool(np.all(rescale == np.rint(rescale)))
        result = np.empty(self.grid.shape, np.int32 if integer else np.float32, order="F")
        pixels = lru_cache(1)(read_pixels)
        for index, ((planes, at), (slope, intercept)) in enumerate(zip(self.planes, rescale, strict=True)):
            stored = pixels(planes.path)[at].T
            if stored.dtype.kind == "f" and integer:
                result, integer = result.astype(np.float32, order="F"), False
            result[..., index] = stored * slope + intercept if (slope, intercept) != (1, 0) else stored
        small = integer and result.min() >= -(1 << 15) and result.max() < 1 << 15
        return result.astype(np.int16, order="F") if small else result


def find_series(folder: Path | str) -> list[Series]:
    """Sort the DICOM files below a folder, except hidden ones, into series; those that are left out have a fault."""
    files = [(file, file.stat()) for file in files_below(Path(folder)) if file.name.upper() != "DICOMDIR"]
    return list(_sorted_into_series(tuple((file, state.st_size, state.st_mtime_ns) for file, state in files)))


def is_dicom(path: Path) -> bool:
    """Whether `path` is a folder, a series in a folder, or a DICOM file."""
    return path.is_dir() or _is_series(path) or is_dicom_file(path)


def open_dicom(path: Path) -> ImageFile:
    """Parse a series, the only series of a folder, an enhanced file, or a DICOM segmentation.

    Raises ScanError if there is no series, there are several, it is left out, or it cannot be read.
    """
    if path.is_file() and is_segmentation(path):
        return open_segmentation(path)
    series = wanted_series(path)
    return ImageFile(path, series.grid.shape, series.grid.affine, series.load)


def wanted_series(path: Path) -> Series:
    """The series of a path; raises ScanError as `open_dicom`."""
    if path.is_file():
        found = _as_series([read_planes(path)], 1)
        if found.fault == "it has one slice only":
            raise ScanError(f"{path}: this is one slice of a series; give its folder.")
        return _sound(replace(found, path=path))
    if _is_series(path):
        named = [series for series in find_series(path.parent) if series.name == path.stem]
        if not named:
            raise ScanError(f"{path}: {path.parent} holds no series of this name; list its series again.")
        return _sound(named[0])
    here = find_series(path)
    sound = [series for series in here if series.fault is None]
    if len(sound) > 1:
        some = ", ".join(series.name for series in sound[:5]) + (", ..." if len(sound) > 5 else "")
        raise ScanError(f"{path}: {len(sound)} DICOM series lie here ({some}); name one, as {sound[0].path}.")
    if not here:
        raise ScanError(f"{path}: there is no DICOM file in this folder; check the path.")
    if not sound:
        more = f" (and {len(here) - 1} more are left out)" if len(here) > 1 else ""
        raise ScanError(f"{path}: {here[0].fault}{more}; no scan is left in this folder.")
    return sound[0]


def _sound(series: Series) -> Series:
    if series.fault is not None:
        raise ScanError(f"{series.path}: {series.fault}; export it anew or leave it out.")
    return series


def _is_series(path: Path) -> bool:
    return path.suffix == SERIES_ENDING and path.parent.is_dir() and not path.exists()


@lru_cache(maxsize=_REMEMBERED)
def _sorted_into_series(seen: tuple[tuple[Path, int, int], ...]) -> tuple[Series, ...]:
    """The series of these files; cached by their size and modification time."""
    groups: dict[tuple[object, ...], list[list[Planes]]] = {}
    for path, _, _ in seen:
        if is_dicom_file(path):
            found = read_planes(path)
            identity = found.identity if found.fault is None else found.series
            kinds = groups.setdefault((identity, found.fault, path if found.enhanced else None), [])
            kind = next((kind for kind in kinds if kind[0].is_like(found)), None)
            if kind is None:
                kinds.append([found])
            else:
                kind.append(found)
    series, count = [], Counter[str]()
    for each in (_as_series(files, len(kinds)) for kinds in groups.values() for files in kinds):
        count[each.name] += 1
        series.append(each if count[each.name] == 1 else replace(each, name=f"{each.name}-{count[each.name]}"))
    return tuple(sorted(_with_paths(series), key=lambda each: each.name))


def _with_paths(series: list[Series]) -> Iterable[Series]:
    """Set the path of each series: its folder if it has no other sound series, else its single file or its name."""
    for each in series:
        folder = Path(os.path.commonpath([file.parent for file in each.files]))
        others = [other for other in series if other.fault is None and other is not each]
        if each.fault is None and not any(file.is_relative_to(folder) for other in others for file in other.files):
            yield replace(each, path=folder)
        elif each.fault is None and len(each.files) == 1:
            yield replace(each, path=each.files[0])
        else:
            yield replace(each, path=folder / f"{each.name}{SERIES_ENDING}")


def _as_series(files: Sequence[Planes], kinds: int) -> Series:
    """The series of files that belong together, with its notes and fault."""
    first = files[0]
    number = hashlib.sha256(first.series.encode(errors="replace")).hexdigest()[:8]
    paths = tuple(each.path for each in files)
    series = Series(first.path.parent, f"{first.modality}-{number}", first.modality, paths)
    if first.fault is not None:
        held = f"{len(files)} files hold" if len(files) > 1 else "1 file holds"
        kind = "unreadable" if first.fault == UNREADABLE else "no scan"
        return replace(series, fault=f"{held} {first.fault}", kind="dicom series" if first.enhanced else kind)
    notes = []
    if kinds > 1:
        notes.append(f"its slices are of {kinds} orientations or sizes; each is a scan of its own")
    normal = np.cross(first.across, first.down)
    planes = [(each, index) for each in files for index in range(len(each.positions))]
    places = np.concatenate([each.positions for each in files])
    stacked = stack(places, normal, min(first.spacing))
    fault = stacked.fault and stacked.fault.format(*(_called(planes[index]) for index in stacked.where))
    if stacked.duplicates and first.enhanced:
        fault = "several of its frames lie at the same place (several times or echoes in one file)"
    elif stacked.duplicates:
        different = next((pair for pair in stacked.duplicates if not _are_copies(*(planes[at] for at in pair))), None)
        if different is None:
            notes.append(f"{counted(len(stacked.duplicates), 'duplicate slice')} used once")
        else:
            a, b = (_called(planes[index]) for index in different)
            fault = f"{a} and {b} lie at the same place with different voxels (several times or echoes in one series)"
    order = [planes[index] for index in stacked.order]
    fault = fault or _mixed(order, stacked, places @ normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[0], first.down * first.spacing[1]
    affine[:3, 2] = normal * stacked.spacing
    affine[:3, 3] = places[stacked.order[0]]
    grid = Grid((*first.size, len(order)), LPS_TO_RAS @ affine)
    return replace(series, planes=tuple(order), grid=grid, notes=tuple(notes), fault=fault)


def _called(plane: Plane) -> str:
    return f"frame {plane[1] + 1}" if plane[0].enhanced else printable(Path(plane[0].path.name))


def _are_copies(a: Plane, b: Plane) -> bool:
    try:
        return np.array_equal(a[0].rescale, b[0].rescale) and np.array_equal(
            read_pixels(a[0].path), read_pixels(b[0].path)
        )
    except ScanError:
        return False


def _mixed(order: Sequence[Plane], stacked: Stack, places: np.ndarray) -> str | None:
    """The fault of slices that may be of two patients, to whom an anonymiser gave the same numbers and names.

    It is detected by an instance number that occurs twice; or, without numbers, by interleaved even stacks in two
    folders.
    """
    text = "cannot be distinguished from those of another scan of the same numbers and names"
    numbers = [] if order[0][0].enhanced else [planes.number for planes, _ in order]
    for index, number in enumerate(numbers):
        if number is not None and number in numbers[:index] and len(set(numbers)) > 1:
            pair = f"{_called(order[numbers.index(number)])} and {_called(order[index])}"
            return f"its slices {text} (first {pair}, both of number {number})"
    if any(number is not None for number in numbers):
        return None
    of_folder: dict[Path, list[float]] = {}
    for plane, index in zip(order, stacked.order, strict=True):
        of_folder.setdefault(plane[0].path.parent, []).append(float(places[index]))
    stacks = [heights for heights in of_folder.values() if len(heights) > 1]
    even = [heights for heights in stacks if np.ptp(np.diff(heights)) <= 0.02 * np.diff(heights).min()]
    if any(a[0] < b[-1] and b[0] < a[-1] for i, a in enumerate(even) for b in even[:i]):
        return f"its slices {text} (they lie in several folders, and between each other's)"
    return None

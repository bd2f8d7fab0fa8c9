"""Reading a scan or its label map: faults become findings (`judge_`) or an error (`read_`)."""

from collections.abc import Callable, Collection, Sequence
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from voxmim.errors import ScanError
from voxmim.findings import Finding
from voxmim.images.check import check_image, check_label_values, check_same_grid
from voxmim.images.geometry import resample
from voxmim.images.grid import Grid, Volume
from voxmim.images.image_file import ImageFile
from voxmim.images.repair import repair_label
from voxmim.images.volume import open_image
from voxmim.text import counted

MAX_VOXELS = 1 << 30  # 4 GiB as float32; preparing needs several times as much
_FEW = 8  # voxels along an axis
_SUBSAMPLE = 1 << 21  # voxels that are tested for a label map
_EQUAL_NEIGHBOURS = 0.8  # fraction in a label map; noise leaves few in a scan
_WHOLE = 1e-3  # largest distance to a whole number, because of rounding in scaled files
_Result = TypeVar("_Result")


def read_channels(images: Sequence[Path], channels: int, match: bool = False) -> Volume:
    """Read one scan, from one file of all channels or one per channel; see `judge_channels`.

    Raises ScanError if a file cannot be used, or the channels have different grids or do not overlap.
    """
    findings: list[Finding] = []
    return _or_error(judge_channels(images, channels, match, findings), findings)


def read_label(path: Path, grid: Grid, image_path: Path, known: Collection[int] = ()) -> np.ndarray:
    """Read a label map (X, Y, Z) uint8 on the grid of its scan, repaired if possible; see `judge_label`.

    Raises ScanError for another grid, values that are not whole numbers from 0 to 255, or values that are not `known`.
    """
    findings: list[Finding] = []
    return _or_error(judge_label(path, grid, image_path, known, findings), findings)


def _or_error(result: _Result | None, findings: Sequence[Finding]) -> _Result:
    if result is None:
        fault = next(finding for finding in findings if finding.action == "left out")
        raise ScanError(fault.reason, fault.kind)
    return result


def judge_channels(images: Sequence[Path], channels: int, match: bool, findings: list[Finding]) -> Volume | None:
    """Read all channels on the grid of the first; None if one cannot be used. Extends `findings`.

    With `match` a channel with another grid is interpolated linearly to that of the first; otherwise it is left out.
    """
    first, grid, arrays = images[0], None, []
    if len(images) not in (1, channels):
        text = f"{counted(len(images), 'file')} for {counted(channels, 'channel')}; give one file, or one per channel."
        findings.append(Finding.of(first, "channels", text))
        return None
    for path in images:
        volume = _read(path, channels if len(images) == 1 else 1, ImageFile.read, findings)
        if volume is None:
            continue
        grid = grid or Grid.of(volume)
        try:
            check_image(volume, path)
            for axis, count in zip("XYZ", volume.shape, strict=True):
                if count < _FEW:
                    findings.append(Finding.of(path, "tiny", f"only {count} voxels along axis {axis}.", "used"))
            if all(map(looks_like_labels, volume.array)):
                text = "it is taken for a scan, but looks like a label map; remove it, or list it as a label."
                findings.append(Finding.of(path, "label map", text, "used"))
            arrays.append(_on_grid(volume, grid, path, first, match, findings))
        except ScanError as error:
            findings.append(Finding.of_error(path, error))
    if grid is None or len(arrays) < len(images):
        return None
    return Volume(arrays[0] if len(arrays) == 1 else np.concatenate(arrays), grid.affine)


def judge_label(
    path: Path, grid: Grid | None, image_path: Path, known: Collection[int], findings: list[Finding]
) -> np.ndarray | None:
    """Read a label map (X, Y, Z) uint8 on its scan's grid, if that is given; None if it cannot be used.

    Extends `findings`. `known` are the label values that the source lists, without 0, or empty.
    """
    label = _read(path, 1, lambda image, _: image.read() if grid is None else image.read_label(grid), findings)
    if label is None:
        return None
    label, repaired = repair_label(label, grid, path)
    findings += repaired
    errors = []
    try:
        if grid is not None:
            check_same_grid(Grid.of(label), grid, path, image_path)
    except ScanError as error:
        errors.append(Finding.of_error(path, error))
    try:
        check_label_values(label, path, known)
        if not label.array.any():
            findings.append(Finding.of(path, "empty label", "the label map is empty.", "used"))
    except ScanError as error:
        errors.append(Finding.of_error(path, error))
    findings += errors
    return None if errors else label.array[0].astype(np.uint8)


def looks_like_labels(channel: np.ndarray) -> bool:
    """Whether voxels (X, Y, Z) are integers from 0 to 255, of which most neighbours above 0 are equal."""
    planes = channel[..., :: max(1, -(-channel.size // _SUBSAMPLE))]
    if planes.min() < -_WHOLE or planes.max() > 255 + _WHOLE:
        return False
    values = np.rint(planes)
    if np.abs(planes - values).max() > _WHOLE:
        return False
    inside = (values[1:] > 0) & (values[:-1] > 0)
    return bool(inside.any() and np.mean((values[1:] == values[:-1])[inside]) > _EQUAL_NEIGHBOURS)


def _read(
    path: Path, channels: int, read: Callable[[ImageFile, int], Volume], findings: list[Finding]
) -> Volume | None:
    """Open a file and read its voxels; None if that fails."""
    try:
        image = open_image(path)
        if prod(image.sizes) > MAX_VOXELS:
            shape = " x ".join(map(str, image.sizes))
            raise ScanError(f"{path}: {shape} voxels are more than {MAX_VOXELS}; crop or resample it first.", "huge")
        if len(image.sizes) > 3 and prod(image.sizes[3:]) == 1 and channels == 1:
            text = "its further axes have one voxel each, and are dropped."
            findings.append(Finding.of(path, "4D", text, "repaired"))
        volume = read(image, channels)
    except ScanError as error:
        findings.append(Finding.of_error(path, error))
        return None
    except Exception as error:  # readers raise many kinds for damaged bytes, and MemoryError
        text = f"it could not be read ({error!r}); fix the cause and run again."
        findings.append(Finding.of(path, "unreadable", text))
        return None
    findings += [Finding(str(path), kind, text, "used") for kind, text in image.doubts]
    return volume


def _on_grid(volume: Volume, grid: Grid, path: Path, first: Path, match: bool, findings: list[Finding]) -> np.ndarray:
    """The voxels of a channel on the grid of the first, padded with its lowest value."""
    try:
        check_same_grid(Grid.of(volume), grid, path, first)
        return volume.array
    except ScanError as error:
        if not match:
            text = f"{str(error).removesuffix('.')}, or prepare with --match-channels."
            raise ScanError(text, error.kind) from None
    lowest = float(volume.array.min())
    array = resample(volume, grid, fill=lowest).array
    if np.all(array == lowest):
        text = f"{path}: no voxel lies where those of {first.name} do; is it of the same patient?"
        raise ScanError(text, "other grid")
    text = f"its voxels are interpolated on those of {first.name}."
    findings.append(Finding.of(path, "other grid", text, "repaired"))
    return array

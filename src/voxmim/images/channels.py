"""One scan from the files of its channels, which must lie on one grid or are brought to it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxmim.errors import ScanError
from voxmim.images.check import check_image, check_same_grid
from voxmim.images.geometry import resample
from voxmim.images.grid import Grid, Volume
from voxmim.images.volume import read_volume


def read_channels(images: Sequence[Path], channels: int, match: bool = False) -> tuple[Volume, list[str]]:
    """One scan, from one file of all its channels or one per channel; and warnings.

    With `match` a channel of another grid than the first one's is interpolated linearly on that; otherwise it is
    refused.
    Raises ScanError where a file cannot be used, or the channels do not lie on one grid, or not in one place.
    """
    if len(images) not in (1, channels):
        raise ScanError(
            f"{images[0]}: {len(images)} files for {channels} channel(s); give one file, or one per channel.",
            "channels",
        )
    volumes = [read_volume(image, channels if len(images) == 1 else 1) for image in images]
    first = Grid.of(volumes[0])
    arrays, warnings = [], []
    for path, volume in zip(images, volumes, strict=True):
        warnings += check_image(volume, path)
        array, warning = on_grid(volume, first, path, images[0], match)
        arrays.append(array)
        warnings += [] if warning is None else [warning]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Volume(array, first.affine), warnings


def on_grid(
    volume: Volume, grid: Grid, path: Path, reference: Path, match: bool = False
) -> tuple[np.ndarray, str | None]:
    """The voxels of a channel on the grid of the first one, and what was done to them, if anything; see above."""
    try:
        check_same_grid(Grid.of(volume), grid, path, reference)
    except ScanError as error:
        if not match:
            text = f"{str(error).removesuffix('.')}, or prepare with --match-channels."
            raise ScanError(text, error.kind) from None
        return _matched(volume, grid, path, reference).array, (
            f"{path}: its voxels are interpolated on those of {reference.name}."
        )
    return volume.array, None


def _matched(volume: Volume, grid: Grid, path: Path, reference: Path) -> Volume:
    """The volume on another grid; where it does not reach, its lowest value."""
    lowest = float(volume.array.min())
    found = resample(volume, grid, fill=lowest)
    if np.all(found.array == lowest):
        text = f"{path}: no voxel lies where those of {reference.name} do; is it of the same patient?"
        raise ScanError(text, "other grid")
    return found

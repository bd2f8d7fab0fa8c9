"""How the scans of a source are to be prepared: as asked, as the store has it, or as the scans suggest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median_low

import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.doctor.judge import judge_case
from voxmim.doctor.modality import LOOKED_AT, guess_intensity, named_ct
from voxmim.errors import ScanError, StoreError
from voxmim.images.geometry import ras_axes
from voxmim.images.grid import Spacing
from voxmim.images.volume import open_image
from voxmim.sources import Source
from voxmim.store.format import Preparation
from voxmim.store.writing import read_index


def settle(source: Source, out: Path, spacing: Spacing | None, intensity: str, match: bool | None) -> Preparation:
    """What is to be done to the scans of a source on their way into the store at `out`.

    Args:
        source: the scans.
        out: the store's folder, which may be missing.
        spacing: voxel size in mm along X, Y, Z; None takes the store's, or else the median of the scans.
        intensity: ``ct``, ``mr``, or ``auto``: the store's, or else guessed from the scans.
        match: interpolate channels of another grid on that of the first; None does as the store has it, or else not.

    Raises:
        StoreError: what is asked for makes no sense, or the store was made otherwise.
        SourceError: no scan can be read.
    """
    if intensity not in ("auto", "ct", "mr"):
        raise StoreError(f"intensity '{intensity}' is not known; choose ct, mr or auto.")
    if spacing is not None and (len(spacing) != 3 or not all(0 < size < np.inf for size in spacing)):
        raise StoreError(f"spacing {spacing} must be three sizes above 0, in mm.")
    index = read_index(out)
    if index is None:
        return Preparation(
            spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])) if spacing else _median_spacing(source),
            intensity=_guess(source, bool(match)) if intensity == "auto" else intensity,
            channels=source.channels,
            match_channels=bool(match),
        )
    there: Preparation = index["preparation"]
    wanted = Preparation(
        spacing=there.spacing if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        intensity=there.intensity if intensity == "auto" else intensity,
        channels=source.channels,
        match_channels=there.match_channels if match is None else match,
        zero_background=there.zero_background,
    )
    for key in ("spacing", "intensity", "channels", "match_channels"):
        asked, has = getattr(wanted, key), getattr(there, key)
        if asked != has:
            raise StoreError(
                f"{out}: this store has {key} {has}, but {asked} is asked for; use another folder or delete it."
            )
    return wanted


def _median_spacing(source: Source) -> Spacing:
    """The size along each axis that the scan in the middle has, to the seven digits of a float32: no mean of two sizes.

    Scans that share a size are thus not resampled.
    """
    spacings = []
    for case in source.cases:
        try:
            grid = open_image(case.images[0]).grid
        except ScanError:
            continue  # told when the case is prepared
        order, _ = ras_axes(grid.affine)
        spacings.append([grid.spacing[axis] for axis in order])
    if not spacings:
        raise StoreError(f"{source.path}: none of {len(source.cases)} scans can be read; check the files.")
    x, y, z = (median_low(float(f"{size:.7g}") for size in sizes) for sizes in zip(*spacings, strict=True))
    return x, y, z


def _guess(source: Source, match: bool) -> str:
    seen: list[Facts] = []
    for case in source.cases:
        if len(seen) == LOOKED_AT or named_ct(source.channels):
            break
        facts = judge_case(replace(case, label=None), source.channels, match=match).facts
        seen += [] if facts is None else [facts]
    return guess_intensity(seen, source.channels)

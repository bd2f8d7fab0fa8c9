"""How the scans of a source are to be prepared: by the arguments, the existing store, or the scans."""

from pathlib import Path
from statistics import median_low

import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.doctor.judge import Judged, judge_case
from voxmim.doctor.modality import guess_intensity, is_decided, named_ct
from voxmim.errors import StoreError
from voxmim.images.geometry import ras_axes
from voxmim.images.grid import Spacing
from voxmim.images.volume import open_image
from voxmim.sources import Source
from voxmim.store.index import Index, Preparation
from voxmim.store.update import stamps
from voxmim.text import counted

Read = tuple[tuple[tuple[int, int], ...], Judged]
"""The stamps of a case's files before they were read, and the case."""


def resolve_preparation(
    source: Source, out: Path, spacing: Spacing | None, intensity: str, match: bool | None
) -> tuple[Preparation, dict[str, Read]]:
    """The preparation of a source's scans for the store at `out`, which may not exist yet.

    `spacing`, `intensity` (auto) and `match` default to those of the store, or else follow from the scans. Also returns
    the cases that were read to guess the intensity, by name, so that none is read twice.

    Raises StoreError if an argument is not valid, the store was prepared in another way, or no scan can be read.
    """
    if intensity not in ("auto", "ct", "mr"):
        raise StoreError(f"intensity '{intensity}' is not known; choose ct, mr or auto.")
    if spacing is not None:
        if len(spacing) != 3 or not all(0 < size < np.inf for size in spacing):
            raise StoreError(f"spacing {spacing} must be three sizes above 0, in mm.")
        spacing = float(spacing[0]), float(spacing[1]), float(spacing[2])
    index = Index.read(out)
    if index is None:
        spacing = spacing or _median_spacing(source)
        intensity, read = _guess(source, bool(match)) if intensity == "auto" else (intensity, {})
        return Preparation(spacing, intensity, source.channels, bool(match)), read
    existing = index.preparation
    wanted = Preparation(
        spacing or existing.spacing,
        existing.intensity if intensity == "auto" else intensity,
        source.channels,
        existing.match_channels if match is None else match,
        existing.zero_background,
    )
    for key in ("spacing", "intensity", "channels", "match_channels"):
        requested, has = getattr(wanted, key), getattr(existing, key)
        if requested != has:
            raise StoreError(
                f"{out}: this store has {key} {has}, but {requested} is requested; use another folder or delete it."
            )
    return wanted, {}


def _median_spacing(source: Source) -> Spacing:
    """The (lower) median voxel size along each axis, to the seven digits of a float32."""
    spacings = []
    for case in source.cases:
        try:
            grid = open_image(case.images[0]).grid
        except Exception:  # reported when the case is prepared
            continue
        order, _ = ras_axes(grid.affine)
        spacings.append([grid.spacing[axis] for axis in order])
    if not spacings:
        raise StoreError(f"{source.path}: none of {counted(len(source.cases), 'scan')} can be read; check the files.")
    x, y, z = (median_low(float(f"{size:.7g}") for size in sizes) for sizes in zip(*spacings, strict=True))
    return x, y, z


def _guess(source: Source, match: bool) -> tuple[str, dict[str, Read]]:
    """CT or MR by the first scans that can be read, and these scans."""
    read: dict[str, Read] = {}
    facts: list[Facts] = []
    for case in () if named_ct(source.channels) else source.cases:
        before = stamps(case)
        judged = judge_case(case, source.channels, tuple(source.labels), match)
        read[case.name] = before, judged
        facts += [] if judged.facts is None else [judged.facts]
        if is_decided(facts):
            break
    return guess_intensity(facts, source.channels), read

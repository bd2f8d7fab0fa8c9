"""The judgement of one case: its files are read once, and what is odd, what is done about it and what was seen is told.

A case whose scan is left out, or one channel of it, is left out whole; one whose label map is left out serves without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from voxmim.doctor.facts import Facts, measure
from voxmim.doctor.label_checks import looks_like_labels
from voxmim.errors import ScanError
from voxmim.findings import Finding
from voxmim.images.channels import on_grid
from voxmim.images.check import check_image, check_label_values, check_same_grid
from voxmim.images.grid import Grid, Volume
from voxmim.images.image_file import ImageFile
from voxmim.images.repair import mend_label
from voxmim.images.volume import open_image
from voxmim.sources import SourceCase

MOST_VOXELS = 1 << 30  # 4 GiB as float32, of which preparing needs several


@dataclass(frozen=True, eq=False)
class Judged:
    """A case that was read and judged.

    Attributes:
        findings: what is odd.
        image: all channels that are there, on one grid; None where the case is left out.
        label: (X, Y, Z) uint8 on the same grid; None where there is none, or it is left out.
        facts: what was seen; None where the case is left out.
    """

    findings: tuple[Finding, ...]
    image: Volume | None = None
    label: np.ndarray | None = None
    facts: Facts | None = None


def judge_case(case: SourceCase, channels: Sequence[str], known: Collection[int] = (), match: bool = False) -> Judged:
    """Read and judge a case; whatever is wrong with it is a finding, never an error.

    Args:
        case: the case.
        channels: the name of each channel of the source.
        known: the label values that the source lists; empty if it lists none.
        match: interpolate channels of another grid on that of the first, rather than leave the case out.
    """
    try:
        return _judge_case(case, channels, known, match)
    except Exception as error:  # no single file ends the work on the others
        text = f"{case.images[0]}: it could not be judged ({error!r}); fix the cause and run again."
        return Judged((Finding(str(case.images[0]), "failed", text, "left out"),))


def process_died(case: SourceCase) -> Finding:
    """The finding on a case whose process died while reading or preparing it."""
    text = f"{case.images[0]}: its process died, perhaps out of memory; run again with fewer workers."
    return Finding(str(case.images[0]), "failed", text, "left out")


def _judge_case(case: SourceCase, channels: Sequence[str], known: Collection[int], match: bool) -> Judged:
    images = [Path(image) for image in case.images]
    there = len(channels) - len(case.missing)
    findings: list[Finding] = []
    if len(images) not in (1, there):
        text = f"{images[0]}: {len(images)} files for {there} channel(s); give one file, or one per channel."
        findings.append(Finding(str(images[0]), "channels", text, "left out"))
        images = []
    elif case.missing:
        lacking = ", ".join(channels[channel] for channel in case.missing)
        text = f"{images[0]}: case {case.name} lacks {lacking}, and serves pre-training only."
        findings.append(Finding(str(images[0]), "channels", text, "used"))
    grid, arrays = None, []
    for path in images:
        volume, more = _judge_image(path, there if len(images) == 1 else 1)
        findings += more
        if volume is not None:
            grid = grid or Grid.of(volume)
            try:
                array, warning = on_grid(volume, grid, path, images[0], match)
            except ScanError as error:
                findings.append(_left_out(path, error))
            else:
                arrays.append(array)
                findings += [] if warning is None else [Finding(str(path), "other grid", warning, "repaired")]
    if any(finding.action == "left out" for finding in findings):
        grid = None
    label = None
    if case.label is not None:
        label, more = _judge_label(Path(case.label), grid, Path(case.images[0]), known)
        findings += more
    if grid is None:
        return Judged(tuple(findings))
    image = Volume(arrays[0] if len(arrays) == 1 else np.concatenate(arrays), grid.affine)
    return Judged(tuple(findings), image, label, measure(image, label))


def _judge_image(path: Path, channels: int) -> tuple[Volume | None, list[Finding]]:
    """One file of a scan, or None where it is left out."""
    volume, findings = _read(path, lambda image: image.read(channels), channels)
    if volume is None:
        return None, findings
    try:
        findings += [Finding(str(path), "tiny", text, "used") for text in check_image(volume, path)]
        if all(map(looks_like_labels, volume.array)):
            text = f"{path}: it is taken for a scan, but looks like a label map; take it out, or list it as a label."
            findings.append(Finding(str(path), "label map", text, "used"))
    except ScanError as error:
        findings.append(_left_out(path, error))
    return volume, findings


def _judge_label(
    path: Path, grid: Grid | None, image_path: Path, known: Collection[int]
) -> tuple[np.ndarray | None, list[Finding]]:
    """A label map on its scan's grid (which is not known where the scan is left out), or None where it is left out."""
    volume, findings = _read(path, lambda image: image.read_label(grid) if grid else image.read(), 1)
    if volume is None:
        return None, findings
    label, mended = mend_label(volume, grid, path)
    findings += mended
    left_out = []
    try:
        findings += [Finding(str(path), "empty label", text, "used") for text in check_label_values(label, path, known)]
    except ScanError as error:
        left_out.append(_left_out(path, error))
    try:
        if grid is not None:
            check_same_grid(Grid.of(label), grid, path, image_path)
    except ScanError as error:
        left_out.append(_left_out(path, error))
    return None if left_out else label.array[0].astype(np.uint8), [*findings, *left_out]


def _read(path: Path, read: Callable[[ImageFile], Volume], channels: int) -> tuple[Volume | None, list[Finding]]:
    """A file's voxels, or None, and what its header and the reading of it give reason to say."""
    findings: list[Finding] = []
    try:
        image = open_image(path)
        if prod(image.sizes) > MOST_VOXELS:
            shape = " x ".join(map(str, image.sizes))
            text = f"{path}: {shape} voxels are more than {MOST_VOXELS}; crop or resample it first."
            return None, [Finding(str(path), "huge", text, "left out")]
        if len(image.sizes) > 3 and prod(image.sizes[3:]) == 1 and channels == 1:
            text = f"{path}: its further axes are of one voxel, and are dropped."
            findings.append(Finding(str(path), "4D", text, "repaired"))
        volume = read(image)
    except ScanError as error:
        return None, [_left_out(path, error)]
    except Exception as error:  # damaged bytes make readers fail in many ways, and large files want memory
        text = f"{path}: it could not be read ({error!r}); see to the cause and run again."
        return None, [Finding(str(path), "unreadable", text, "left out")]
    return volume, findings + [Finding(str(path), kind, text, "used") for kind, text in image.doubts]


def _left_out(path: Path, error: ScanError) -> Finding:
    return Finding(str(path), error.kind, str(error), "left out")

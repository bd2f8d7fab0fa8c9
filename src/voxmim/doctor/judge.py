"""One case: its files are read once, and whatever is odd about them becomes a finding.

A case whose scan, or one channel of it, is left out is left out; one whose label map is left out stays without labels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from voxmim.doctor.facts import Facts, measure
from voxmim.errors import ScanError
from voxmim.findings import Finding
from voxmim.images.channels import on_grid
from voxmim.images.check import check_image, check_label_values, check_same_grid
from voxmim.images.grid import Grid, Volume
from voxmim.images.image_file import ImageFile
from voxmim.images.repair import repair_label
from voxmim.images.volume import open_image
from voxmim.sources import SourceCase

MAX_VOXELS = 1 << 30  # 4 GiB as float32, of which preparing needs several
_SUBSAMPLE = 1 << 21  # voxels that decide whether a scan is a label map
_EVEN = 0.8  # fraction of neighbours with the same value; noise leaves few in a scan
_WHOLE = 1e-3  # largest distance to a whole number: masks in scaled files lose digits


@dataclass(frozen=True, eq=False)
class Judged:
    """A case that was read and judged."""

    findings: tuple[Finding, ...]  # what is odd
    image: Volume | None = None  # all channels that the case has, on one grid; None where the case is left out
    label: np.ndarray | None = None  # (X, Y, Z) uint8 on the same grid; None where there is none, or it is left out
    facts: Facts | None = None  # what was measured; None where the case is left out


def judge_case(case: SourceCase, channels: Sequence[str], known: Collection[int] = (), match: bool = False) -> Judged:
    """Read and judge a case; whatever is wrong with it is a finding, never an error.

    `known` are the label values that the source lists, empty if it lists none. With `match`, channels of another
    grid are
    interpolated onto that of the first, rather than the case left out.
    """
    try:
        return _judge(case, channels, known, match)
    except Exception as error:  # no single file ends the work on the others
        text = f"{case.images[0]}: it could not be judged ({error!r}); fix the cause and run again."
        return Judged((Finding(str(case.images[0]), "failed", text, "left out"),))


def process_died(case: SourceCase) -> Finding:
    """The finding on a case whose process died while reading or preparing it."""
    text = f"{case.images[0]}: its process died, perhaps out of memory; run again with fewer workers."
    return Finding(str(case.images[0]), "failed", text, "left out")


def looks_like_labels(channel: np.ndarray) -> bool:
    """Whether (X, Y, Z) voxels are integers from 0 to 255 that equal their neighbours wherever they aren't 0."""
    planes = channel[..., :: max(1, -(-channel.size // _SUBSAMPLE))]
    if planes.min() < -_WHOLE or planes.max() > 255 + _WHOLE:
        return False
    values = np.rint(planes)
    if np.abs(planes - values).max() > _WHOLE:
        return False
    inside = (values[1:] > 0) & (values[:-1] > 0)
    return bool(inside.any() and np.mean((values[1:] == values[:-1])[inside]) > _EVEN)


def _judge(case: SourceCase, channels: Sequence[str], known: Collection[int], match: bool) -> Judged:
    findings: list[Finding] = []
    image = _judge_scan(case, channels, match, findings)
    label = None
    if case.label is not None:
        label = _judge_label(case.label, None if image is None else Grid.of(image), case.images[0], known, findings)
    facts = None if image is None else measure(image, label)
    return Judged(tuple(findings), image, None if image is None else label, facts)


def _judge_scan(case: SourceCase, channels: Sequence[str], match: bool, findings: list[Finding]) -> Volume | None:
    """All channels on the grid of the first; None where the scan is left out. Adds to `findings`."""
    first, count = case.images[0], len(channels) - len(case.missing)
    if len(case.images) not in (1, count):
        text = f"{first}: {len(case.images)} files for {count} channel(s); give one file, or one per channel."
        findings.append(Finding(str(first), "channels", text, "left out"))
        return None
    if case.missing:
        lacking = ", ".join(channels[channel] for channel in case.missing)
        text = f"{first}: case {case.name} lacks {lacking}, and serves pre-training only."
        findings.append(Finding(str(first), "channels", text, "used"))
    grid, arrays = None, []
    for path in case.images:
        volume = _read(path, count if len(case.images) == 1 else 1, lambda image, n: image.read(n), findings)
        if volume is None:
            continue
        grid = grid or Grid.of(volume)
        try:
            findings += [Finding(str(path), "tiny", text, "used") for text in check_image(volume, path)]
            if all(map(looks_like_labels, volume.array)):
                text = f"{path}: it is taken for a scan, but looks like a label map; remove it, or list it as a label."
                findings.append(Finding(str(path), "label map", text, "used"))
            array, note = on_grid(volume, grid, path, first, match)
        except ScanError as error:
            findings.append(_left_out(path, error))
        else:
            arrays.append(array)
            findings += [] if note is None else [Finding(str(path), "other grid", note, "repaired")]
    if grid is None or any(finding.action == "left out" for finding in findings):
        return None
    return Volume(arrays[0] if len(arrays) == 1 else np.concatenate(arrays), grid.affine)


def _judge_label(
    path: Path, grid: Grid | None, image_path: Path, known: Collection[int], findings: list[Finding]
) -> np.ndarray | None:
    """A label map on its scan's grid (None where the scan is left out); None where it is left out itself."""
    label = _read(path, 1, lambda image, _: image.read() if grid is None else image.read_label(grid), findings)
    if label is None:
        return None
    label, repaired = repair_label(label, grid, path)
    findings += repaired
    errors = []
    try:
        findings += [Finding(str(path), "empty label", text, "used") for text in check_label_values(label, path, known)]
    except ScanError as error:
        errors.append(_left_out(path, error))
    try:
        if grid is not None:
            check_same_grid(Grid.of(label), grid, path, image_path)
    except ScanError as error:
        errors.append(_left_out(path, error))
    findings += errors
    return None if errors else label.array[0].astype(np.uint8)


def _read(
    path: Path, channels: int, read: Callable[[ImageFile, int], Volume], findings: list[Finding]
) -> Volume | None:
    """Open a file and read its voxels; None where that fails. Adds to `findings`."""
    try:
        image = open_image(path)
        if prod(image.sizes) > MAX_VOXELS:
            shape = " x ".join(map(str, image.sizes))
            text = f"{path}: {shape} voxels are more than {MAX_VOXELS}; crop or resample it first."
            raise ScanError(text, "huge")
        if len(image.sizes) > 3 and prod(image.sizes[3:]) == 1 and channels == 1:
            text = f"{path}: its further axes have one voxel each, and are dropped."
            findings.append(Finding(str(path), "4D", text, "repaired"))
        volume = read(image, channels)
    except ScanError as error:
        findings.append(_left_out(path, error))
        return None
    except Exception as error:  # damaged bytes make readers fail in many ways, and large files lack memory
        text = f"{path}: it could not be read ({error!r}); fix the cause and run again."
        findings.append(Finding(str(path), "unreadable", text, "left out"))
        return None
    findings += [Finding(str(path), kind, text, "used") for kind, text in image.doubts]
    return volume


def _left_out(path: Path, error: ScanError) -> Finding:
    return Finding(str(path), error.kind, str(error), "left out")

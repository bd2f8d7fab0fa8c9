"""From scans on disk to voxels that a network can be fed: one scan in memory, or a whole source into a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from voxmim.errors import StoreError, VoxmimError
from voxmim.scans.channels import read_channels
from voxmim.scans.check import check_label
from voxmim.scans.geometry import Grid, Spacing, resample, resample_labels, resampled_grid, to_ras
from voxmim.scans.growth import look, paths, stamps
from voxmim.scans.intensity import HU_RANGE, Intensity, fit_intensity, foreground_box
from voxmim.scans.settle import settle
from voxmim.scans.sources import Source, SourceCase, open_source
from voxmim.scans.volume import read_label
from voxmim.store import Case, Preparation
from voxmim.storing import write_case, writing
from voxmim.workers import run


@dataclass(frozen=True)
class PreparedScan:
    """A scan as a network is trained on it, and what is needed to go back.

    Attributes:
        image: (C, X, Y, Z) stored values: int16 HU for CT, float16 z-scores for MR.
        grid: where these voxels lie: RAS+, resampled, cropped to the foreground.
        original: the grid of the scan's own file.
        intensities: the rule of each channel.
        path: the scan's (first) file.
        warnings: what was odd, one sentence each.
    """

    image: np.ndarray
    grid: Grid
    original: Grid
    intensities: tuple[Intensity, ...]
    path: Path
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` did.

    Attributes:
        store: the folder.
        prepared: how many cases were prepared.
        skipped_already: how many lay in the store before.
        failed: (case, message) of those left out.
        warnings: what was odd, one sentence each.
    """

    store: Path
    prepared: int
    skipped_already: int
    failed: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare_scan(images: Sequence[Path | str], preparation: Preparation, missing: Collection[int] = ()) -> PreparedScan:
    """Read and prepare one scan.

    Args:
        images: one file per channel that is there, or one file of all channels.
        preparation: what is to be done.
        missing: the index of each channel that the scan lacks; it becomes air in CT, the mean in MR.

    Raises:
        ScanError: a file cannot be used, or the channels do not lie on one grid.
    """
    files, there = [Path(image) for image in images], len(preparation.channels) - len(missing)
    volume, warnings = read_channels(files, there, preparation.match_channels)
    ras = to_ras(volume)
    grid = resampled_grid(Grid.of(ras), preparation.spacing)
    resampled = resample(ras, grid).array
    box = foreground_box(preparation.intensity, resampled)
    intensities = [fit_intensity(preparation.intensity, channel) for channel in resampled]
    cropped = resampled[(slice(None), *box)]
    stored = np.stack([rule.apply(channel) for rule, channel in zip(intensities, cropped, strict=True)])
    for channel in sorted(missing):
        stored = np.insert(stored, channel, HU_RANGE[0] if preparation.intensity == "ct" else 0, axis=0)
        intensities.insert(channel, Intensity(preparation.intensity))
    return PreparedScan(stored, grid.crop(box), Grid.of(volume), tuple(intensities), Path(images[0]), tuple(warnings))


def prepare_label(path: Path | str, scan: PreparedScan, known: Collection[int] = ()) -> tuple[np.ndarray, list[str]]:
    """Read a label map and bring it to the grid of its prepared scan.

    Args:
        path: the file.
        scan: its prepared scan.
        known: the label values that may occur; empty if any may.

    Returns:
        (X, Y, Z) uint8, and warnings.

    Raises:
        ScanError: it cannot be used, or does not lie on the scan's grid.
    """
    path = Path(path)
    label = read_label(path, scan.original.shape, scan.original.affine)
    warnings = check_label(label, scan.original, path, scan.path, known)
    values = np.rint(label.array[0]).astype(np.uint8)
    return resample_labels(values, scan.original, scan.grid), warnings


def prepare(
    source: Path | str,
    out: Path | str,
    spacing: Spacing | None = None,
    intensity: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    match_channels: bool | None = None,
    scheduler: str | None = None,
) -> PrepareResult:
    """Prepare every scan of a source into a store; what lies there already is kept, of other sources too.

    Args:
        source: a folder of scans (see `open_source`).
        out: the store's folder, new or not.
        spacing: voxel size in mm along X, Y, Z; None takes the store's, or else the median of the scans.
        intensity: ``ct``, ``mr``, or ``auto``: the store's, or else guessed from the scans.
        workers: processes; None takes one per CPU core, 1 stays in this process.
        seed: of the split, where the source has none.
        quiet: no progress bar and no messages.
        match_channels: interpolate channels of another grid on that of the first; None does as the store has it, a new
            one refuses such scans.
        scheduler: address of a Dask scheduler, whose workers prepare the scans; they must see the same files.

    Raises:
        SourceError: the source cannot be used.
        WorkerError: a worker process died, or the cluster doesn't answer.
        StoreError: `out` is a store of another kind, is being changed by another process, cannot be written to, or has
            a case of the same name from elsewhere; or nothing could be prepared.
    """
    found, out = open_source(source, seed), Path(out).absolute()
    preparation = settle(found, out, spacing, intensity, match_channels)
    console = Console(stderr=True, quiet=quiet, highlight=False)
    result = PrepareResult(out, 0, 0)
    prepared: list[Case] = []
    act = partial(_prepare_case, preparation=preparation, known=tuple(found.labels), out=out)
    with writing(out):
        growth = look(found, out, preparation)
        growth.write_index()
        try:
            with _progress(console) as progress, closing(run(act, growth.todo, workers, scheduler)) as outcomes:
                bar = progress.add_task("preparing", total=len(growth.todo))
                for name, case, messages in outcomes:
                    if case is None:
                        result.failed.append((name, messages[0]))
                        console.print(f"[red]left out[/red] {messages[0]}", soft_wrap=True)
                    else:
                        prepared.append(case)
                        result.warnings.extend(messages)
                    progress.advance(bar)
        finally:
            growth.write_index(prepared)
    cases = [*growth.done, *prepared]
    if not cases and not growth.others:
        name, message = result.failed[0]
        raise StoreError(f"{out}: none of {len(result.failed)} cases could be prepared; {name}: {message}")
    result.warnings.extend([*(finding.reason for finding in found.findings), *_rare_labels(found, cases)])
    for warning in result.warnings:
        console.print(f"[yellow]warning[/yellow] {warning}", soft_wrap=True)
    return replace(result, prepared=len(prepared), skipped_already=len(growth.done))


def _rare_labels(source: Source, cases: Sequence[Case]) -> list[str]:
    """Warnings on label values that one case alone has, where the source doesn't say which values there are."""
    seen = Counter(value for case in cases for value in case.counts)
    if source.labels or sum(case.label is not None for case in cases) < 2:
        return []
    warnings = []
    for case in cases:
        if alone := sorted(value for value in case.counts if seen[value] == 1):
            warnings.append(f"{case.label}: no other case has label value {', '.join(map(str, alone))}; is it meant?")
    return warnings


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=console.quiet)


Outcome = tuple[str, Case | None, list[str]]


def _prepare_case(case: SourceCase, preparation: Preparation, known: Collection[int], out: Path) -> Outcome:
    """Prepare one case into the store: its entry and warnings, or no entry and the reason.

    Raises:
        StoreError: the store cannot be written to, which no other case will mend.
    """
    read = stamps(case)  # before the files are read, so that a change meanwhile is seen next time
    try:
        scan = prepare_scan(case.images, preparation, case.missing)
        warnings, label_map = list(scan.warnings), None
        if case.missing:
            lacking = ", ".join(preparation.channels[channel] for channel in case.missing)
            warnings.append(f"{case.images[0]}: case {case.name} lacks {lacking}, and serves pre-training only.")
        if case.label is not None:
            label_map, more = prepare_label(case.label, scan, known)
            warnings += more
    except VoxmimError as error:
        return case.name, None, [str(error)]
    except (MemoryError, OSError, RuntimeError) as error:
        return (
            case.name,
            None,
            [f"{case.images[0]}: could not be prepared ({error!r}); see to the cause and run again."],
        )
    image, label = paths(case)
    x, y, z = scan.grid.shape
    entry = Case(case.name, case.split, (x, y, z), image, label, missing=case.missing, group=case.group, stamps=read)
    return case.name, write_case(out, entry, scan.image, label_map), warnings

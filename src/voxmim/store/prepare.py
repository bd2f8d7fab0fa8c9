"""Preparing scans: one scan in memory, or a source into a store."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from rich.console import Console

from voxmim.console import bar, plain
from voxmim.doctor.cohort import duplicate_rank
from voxmim.doctor.judge import judge_case, process_died
from voxmim.doctor.reading import MAX_VOXELS, read_channels
from voxmim.errors import ScanError, StoreError
from voxmim.findings import Finding, sound
from voxmim.images.geometry import Grid, Spacing, resample, resample_labels, resampled_grid, to_ras
from voxmim.images.intensity import Intensity, fit_intensity, foreground_box
from voxmim.images.volume import Volume
from voxmim.sources import SourceCase, open_source
from voxmim.store.duplicates import claim_known, is_duplicate, release_claims
from voxmim.store.index import Case, Preparation
from voxmim.store.resolve import Read, resolve_preparation
from voxmim.store.update import paths, plan_update, stamps
from voxmim.store.writing import remove_case, write_case, writing
from voxmim.text import counted
from voxmim.workers import run

_COLOURS = {"left out": "red", "repaired": "cyan", "used": "yellow", "in doubt": "magenta"}


@dataclass(frozen=True)
class PreparedScan:
    """A prepared scan, and what is needed to map results back to its file."""

    image: np.ndarray  # (C, X, Y, Z) stored values: int16 HU for CT, float16 z-scores for MR
    grid: Grid  # of the prepared voxels: RAS+, resampled, cropped to the foreground
    original: Grid  # of the scan's file
    intensities: tuple[Intensity, ...]  # of the channels
    path: Path  # of the scan's (first) file


@dataclass(frozen=True)
class PrepareResult:
    """The result of `prepare`."""

    store: Path
    prepared: int  # number of cases that were prepared
    skipped_already: int  # number of cases that were already in the store
    failed: list[tuple[str, str]] = field(default_factory=list)  # (case, message) of those left out
    findings: list[Finding] = field(default_factory=list)  # on all cases of the store and on those left out

    @property
    def sound(self) -> bool:
        """Whether nothing was left out and no finding is unresolved."""
        return sound(self.findings)

    @property
    def unresolved(self) -> list[Finding]:
        """The findings that prevent a training."""
        return [finding for finding in self.findings if finding.unresolved]


def prepare_scan(images: Sequence[Path | str], preparation: Preparation, missing: Collection[int] = ()) -> PreparedScan:
    """Read and prepare one scan, from one file per present channel or one file of all channels.

    `missing` channels, by index, become air in CT and 0 in MR. Raises ScanError if a file cannot be used, the channels
    have different grids, or the scan would be huge.
    """
    files, present = [Path(image) for image in images], len(preparation.channels) - len(missing)
    volume = read_channels(files, present, preparation.match_channels)
    return prepare_volume(volume, preparation, files[0], missing)


def prepare_volume(volume: Volume, preparation: Preparation, path: Path, missing: Collection[int] = ()) -> PreparedScan:
    """Like `prepare_scan`, for a scan that was read from `path`."""
    original, volume = Grid.of(volume), to_ras(volume)
    grid = resampled_grid(Grid.of(volume), preparation.spacing)
    if prod(grid.shape) > MAX_VOXELS:
        sizes = " x ".join(map(str, grid.shape))
        raise ScanError(f"{path}: at the store's spacing it has {sizes} voxels; check its voxel size.", "huge")
    resampled = resample(volume, grid).array
    del volume  # free memory early
    box = foreground_box(preparation.intensity, resampled)
    intensities = [fit_intensity(preparation.intensity, channel, preparation.zero_background) for channel in resampled]
    cropped = resampled[(slice(None), *box)]
    stored = np.stack([rule.apply(channel) for rule, channel in zip(intensities, cropped, strict=True)])
    for channel in sorted(missing):
        stored = np.insert(stored, channel, preparation.outside, axis=0)
        intensities.insert(channel, Intensity(preparation.intensity))
    return PreparedScan(stored, grid.crop(box), original, tuple(intensities), path)


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
    """Prepare the scans of a source into a store; cases that are already in it stay, also those of other sources.

    See `voxmim.prepare` for the arguments. Raises SourceError, WorkerError, or StoreError if `out` was prepared in
    another way, is being changed by another process, cannot be written to, or has another case of the same name; or if
    nothing could be prepared.
    """
    opened, out = open_source(source, seed), Path(out).absolute()
    preparation, read = resolve_preparation(opened, out, spacing, intensity, match_channels)
    console = Console(stderr=True, quiet=quiet, highlight=False)
    prepared: list[Case] = []
    failed: dict[str, str] = {}
    failures: list[Finding] = []
    prepare_case = partial(_prepare_case, preparation=preparation, known=tuple(opened.labels), out=out)

    def outcomes() -> Iterator[Outcome]:
        """Prepare the cases first that were already read to guess the intensity."""
        for case in update.todo:
            if case.name in read:
                yield prepare_case(case, read=read.pop(case.name))
        rest = [case for case in update.todo if case.name not in done]
        with closing(run(prepare_case, rest, workers, scheduler, _on_death)) as others:
            yield from others

    with writing(out):
        update = plan_update(opened, out, preparation)
        update.make_index()[0].write(out)
        claim_known(out, [*update.done, *update.others])
        done: set[str] = set()
        try:
            with bar("preparing", console=console) as advance, closing(outcomes()) as results:  # type: ignore[type-var]
                for number, (name, case, findings) in enumerate(results, start=1):
                    done.add(name)
                    if case is None:
                        failures += findings
                        failed[name] = next(finding.reason for finding in findings if finding.action == "left out")
                        _print(console, findings)
                    else:
                        prepared.append(case)
                    advance(number, len(update.todo))
        finally:
            release_claims(out)
            index, left_out = update.make_index(prepared, failures)
            index.write(out)
        for name in left_out:
            remove_case(out, name)
    _print(console, [finding for finding in index.findings if finding not in failures])
    failed |= left_out
    here = {case.name for case in index.cases}
    if not here:
        name, message = next(iter(failed.items()))
        raise StoreError(f"{out}: none of {counted(len(failed), 'case')} could be prepared; {name}: {message}")
    return PrepareResult(
        out,
        prepared=sum(case.name in here for case in prepared),
        skipped_already=sum(case.name in here for case in update.done),
        failed=list(failed.items()),
        findings=list(index.findings),
    )


def _print(console: Console, findings: Iterable[Finding]) -> None:
    for finding in findings:
        word = "in doubt" if finding.unresolved else finding.action
        console.print(f"[{_COLOURS[word]}]{word}[/] {plain(finding.reason)}", soft_wrap=True)


Outcome = tuple[str, Case | None, tuple[Finding, ...]]


def _prepare_case(
    case: SourceCase, preparation: Preparation, known: Collection[int], out: Path, read: Read | None = None
) -> Outcome:
    """Prepare one case into the store: its entry, or None, and its findings; a duplicate is not written."""
    read_stamps, judged = read or (
        stamps(case),  # before the files are read, so that a change in between is noticed next time
        judge_case(case, preparation.channels, known, preparation.match_channels),
    )
    if judged.image is None or judged.facts is None:
        return case.name, None, judged.findings
    image, label = paths(case)
    entry = Case(
        case.name,
        case.split,
        judged.facts.shape,
        image,
        None if judged.label is None else label,
        missing=case.missing,
        group=case.group,
        stamps=read_stamps,
        facts=judged.facts,
        findings=judged.findings,
        annotated=case.annotated,
    )
    rank = duplicate_rank(case.name, judged.label is not None, judged.facts)
    if is_duplicate(out, judged.facts.content, rank):
        return case.name, entry, judged.findings
    try:
        scan = prepare_volume(judged.image, preparation, case.images[0], case.missing)
        label_map = None if judged.label is None else resample_labels(judged.label, scan.original, scan.grid)
        entry = replace(entry, shape=scan.grid.shape)
        return case.name, write_case(out, entry, scan.image, label_map), judged.findings
    except StoreError:
        raise
    except ScanError as error:
        fault = Finding.of_error(case.images[0], error)
    except Exception as error:  # one bad file must not end the work on the others
        text = f"could not be prepared ({error!r}); fix the cause and run again."
        fault = Finding.of(case.images[0], "failed", text)
    return case.name, None, (*judged.findings, fault)


def _on_death(case: SourceCase) -> Outcome:
    return case.name, None, (process_died(case),)

"""Scans and stores: phantoms, public data sets, inspecting and preparing scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from voxmim.datasets.download import Watch
    from voxmim.doctor.inspect import Inspection
    from voxmim.images.grid import Volume
    from voxmim.store.prepare import PrepareResult


def read_volume(path: Path | str, channels: int = 1) -> Volume:
    """Read a scan or label map of any format: NIfTI, NRRD, MetaImage or DICOM.

    Args:
        path: a file, or a folder with one DICOM series.
        channels: number of channels that a 4D file must have.

    Returns:
        `array` (C, X, Y, Z), rescaled, and `affine` (4, 4) from voxel index to world mm (RAS+).

    Raises:
        ScanError: the file is missing, unreadable, truncated, of another dimension, or has NaN.
    """
    from voxmim.images.volume import read_volume

    return read_volume(path, channels)


def phantom(
    out: Path | str,
    cases: int = 40,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
    kind: Literal["trunk", "head"] = "trunk",
) -> Path:
    """Generate phantoms with label maps: CT of a trunk, or MR of a head.

    The folder has the layout of the Medical Segmentation Decathlon, with splits.json, and classes.csv for a
    classification of whole scans. No patient data is involved.

    Args:
        out: new or empty folder.
        cases: number of phantoms, at least 4.
        seed: seed of the anatomies and of the split.
        on_case: called with the number of cases done and their total.
        kind: CT of a trunk with six organs, or MR of a head in four channels, most with a tumour.

    Returns:
        The folder.

    Raises:
        VoxmimError: too few cases, a negative seed, or a folder that is not empty.
    """
    from voxmim.phantoms.cohort import write_cohort

    write_cohort(Path(out), cases, seed, on_case, kind)
    return Path(out)


def download(
    name: str,
    out: Path | str = ".",
    mirror: str | None = None,
    agree: Callable[[str], bool] = lambda _: True,
    watch: Watch | None = None,
) -> Path:
    """Download a public data set of the Medical Segmentation Decathlon.

    It first shows licence, size and citation. A broken download continues where it stopped. The archive is checked
    against its published checksum, and the folder appears only when it is complete. Without a name, the data sets are
    listed.

    Args:
        name: data set to download, such as msd-hippocampus.
        out: parent folder of the data set's own folder.
        mirror: URL of a folder with the archive. Default: the AWS Open Data bucket.
        agree: called with licence, size and citation; nothing is downloaded if it returns False.
        watch: called with the name of a stage; returns a context manager of a function of bytes done and total.

    Returns:
        The data set's folder, which `prepare` reads. An existing one is left as it is.

    Raises:
        DownloadError: unknown name, no connection, a damaged archive, no space, or the terms were not accepted.
    """
    from voxmim.datasets.download import download, unwatched

    return download(name, out, mirror, agree, watch or unwatched)


def data_sets() -> list[list[str]]:
    """List the data sets that `download` knows, as rows of name, content and licence."""
    from voxmim.datasets.catalogue import ARCHIVES, LICENCE

    return [[name, archive.about, LICENCE] for name, archive in ARCHIVES.items()]


def inspect(
    source: Path | str,
    json_file: Path | str | None = None,
    html_file: Path | str | None = None,
    workers: int | None = None,
    match_channels: bool = False,
    on_case: Callable[[int, int], None] | None = None,
    scheduler: str | None = None,
    list_file: Path | str | None = None,
) -> Inspection:
    """Check every file of a source, and describe its scans.

    It reports what is wrong with a file and whether 'prepare' will use it. No file is changed. The exit status is 1 if
    anything is left out or in doubt.

    Args:
        source: folder or list of scans, as for 'prepare'.
        json_file: write findings and statistics to this JSON file.
        html_file: write a page with findings, histograms and pictures to this file.
        workers: number of processes. Default: one per CPU core.
        match_channels: resample channels on another voxel grid to that of the first channel, as 'prepare' does.
        on_case: called with the number of cases done and their total.
        scheduler: address of a Dask scheduler whose workers read the files.
        list_file: write the usable scans to this new CSV file, a list that 'prepare' reads, with label maps beside the
            scans that they are named after; check it, and fill in labels, splits and groups.

    Returns:
        The findings of every scan, and the fingerprint of the cohort.

    Raises:
        VoxmimError: the source cannot be read, or the list not be written.
    """
    from voxmim.doctor.inspect import inspect_source
    from voxmim.doctor.write_list import refuse_list, write_list
    from voxmim.files import write_json

    if list_file is not None:
        refuse_list(Path(list_file))
    inspection = inspect_source(source, workers, match_channels, on_case, scheduler)
    if json_file is not None:
        write_json(Path(json_file), inspection.as_dict())
    if html_file is not None:
        from voxmim.report.inspection import inspection_page

        inspection_page(Path(html_file), inspection)
    if list_file is not None:
        write_list(Path(list_file), inspection)
    return inspection


def prepare(
    source: Path | str,
    out: Path | str,
    spacing: tuple[float, float, float] | None = None,
    intensity: Literal["auto", "ct", "mr"] = "auto",
    workers: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    match_channels: bool | None = None,
    scheduler: str | None = None,
) -> PrepareResult:
    """Preprocess scans into a store, the folder that training reads.

    Scans are reoriented, resampled and cropped to the foreground, and MR intensities are normalised. Run it again to
    continue where it stopped, or with another source to add scans. The exit status is 1 if anything was left out or is
    in doubt.

    Args:
        source: folder of scans (any layout, or that of the Decathlon, nnU-Net or BIDS), or a list (.csv, .json).
        out: folder of the store.
        spacing: voxel size in mm. Default: that of the store; for a new store, the median of the scans.
        intensity: ct keeps HU, mr normalises each scan to z-scores, auto decides from the scans.
        workers: number of processes. Default: one per CPU core.
        seed: seed of the split, if the source has none.
        quiet: print no progress and no messages.
        match_channels: resample channels on another voxel grid to that of the first channel. Default: as in the store;
            a new store leaves such scans out.
        scheduler: address of a Dask scheduler whose workers prepare the scans (docs/clusters.md).

    Returns:
        The store's folder, how many cases were prepared, and what was left out or is in doubt.

    Raises:
        VoxmimError: the source cannot be read, or the store cannot be written.
    """
    from voxmim.store.prepare import prepare

    return prepare(source, out, spacing, intensity, workers, seed, quiet, match_channels, scheduler)


def verify(store: Path | str, workers: int | None = None, scheduler: str | None = None) -> list[str]:
    """Check a store for damage.

    It compares the index with the files, their checksums and their label counts, and prints one line per fault. The
    exit status is 1 if there is any.

    Args:
        store: folder written by 'voxmim prepare'.
        workers: number of processes. Default: one per CPU core.
        scheduler: address of a Dask scheduler whose workers read the files.

    Returns:
        One sentence per fault.

    Raises:
        VoxmimError: this is not a store, or its index cannot be read.
    """
    from voxmim.store.verify import verify

    return verify(store, workers, scheduler)


def split(
    store: Path | str,
    splits: Path | str | None = None,
    seed: int = 0,
    fractions: tuple[float, float] = (0.15, 0.25),
) -> dict[str, int]:
    """Draw a new split of a store's cases, by patient.

    The images are not changed.

    Args:
        store: folder written by 'voxmim prepare'.
        splits: JSON file with lists of case names under train, val and test. Default: a random split.
        seed: seed of the random split.
        fractions: fractions of the labelled cases for validation and test, if the split is random.

    Returns:
        The number of cases in each split.

    Raises:
        VoxmimError: this is not a store, or the file does not fit its cases.
    """
    from voxmim.store.split import split

    return split(store, splits, seed, fractions)

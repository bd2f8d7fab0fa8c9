"""The new scans that `predict`, `reconstruct` and `embed` read, and the files that they write."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from voxmim.console import warn
from voxmim.errors import SourceError
from voxmim.findings import Finding
from voxmim.images.formats.dicom import is_dicom
from voxmim.images.volume import SCAN_ENDINGS
from voxmim.sources import Source, channel_files
from voxmim.sources.opening import UNNAMED, is_list, read_source
from voxmim.tasks.scans import channel_order


class Scan(NamedTuple):
    """The arguments of `Predictor.prepare`."""

    images: tuple[Path, ...]  # one of all channels, or one per channel
    order: Sequence[int] | None = None  # for each channel of the network, its index in the scan; None: the same order


class Written(list[Path]):
    """The files that a command wrote.

    Attributes:
        left_out: the names or paths of scans that could not be used.
    """

    def __init__(self, files: Iterable[Path], left_out: Iterable[str]) -> None:
        super().__init__(files)
        self.left_out = list(left_out)


def given_scans(paths: Sequence[Path], channels: Sequence[str]) -> tuple[dict[str, Scan], list[str]]:
    """Find the scans in files, folders and lists, for a network with these channels.

    Folders and lists are read as `prepare` reads them. Where nothing names the channels, the files ``CASE_0000`` and
    ``CASE_0001`` are channels of one scan.

    Returns:
        the scans by name, and the files of scans that are left out.

    Raises:
        SourceError: there is no scan, a path is missing, a list cannot be read, a folder or list has other channels, or
            two scans have the same name.
    """
    paths = [path.absolute() for path in paths]
    files: list[Path] = []
    cases: list[tuple[str, Scan]] = []
    left_out: list[Finding] = []
    for path in paths:
        if path.is_dir() or is_list(path):
            source = read_source(path)
            left_out += [finding for finding in source.findings if finding.action == "left out"]
            if path.is_dir() and source.channels == UNNAMED:
                files += [image for case in source.cases for image in case.images]
            else:
                complete, incomplete = _complete(source, channels)
                cases += complete
                left_out += incomplete
        elif path.is_file() or is_dicom(path):
            files.append(path)
        else:
            raise SourceError(f"{path}: there is no such scan or folder; check the path.")
    folder = os.path.commonpath([os.path.abspath(path if path.is_dir() else path.parent) for path in paths])
    grouped = channel_files(list(dict.fromkeys(files)), len(channels), Path(folder))
    cases = [*((name, Scan(images)) for name, images in grouped.items()), *cases]
    where = ", ".join(map(str, paths))
    if not cases:
        more = f" ({left_out[0].reason.removesuffix('.')})" if left_out else ""
        raise SourceError(f"{where}: no scan was found here{more}; give DICOM or files of {', '.join(SCAN_ENDINGS)}.")
    twin, count = Counter(name for name, _ in cases).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{where}: {count} scans have the same name {twin}; rename one of them in its list.")
    left_out = [finding for finding in left_out if finding.kind != "no scan"]
    for finding in left_out:
        warn(f"left out: {finding.reason}")
    return dict(cases), [finding.file for finding in left_out]


def _complete(source: Source, channels: Sequence[str]) -> tuple[list[tuple[str, Scan]], list[Finding]]:
    """The scans of a folder or list that have all channels, and findings on the others."""
    order = None if len(source.channels) == 1 else channel_order(channels, source.channels, source.path)
    complete, incomplete = [], []
    for case in source.cases:
        if case.missing:
            names = ", ".join(source.channels[index] for index in case.missing)
            text = f"its case {case.name} lacks the channel {names}, which the network needs."
            incomplete.append(Finding.of(case.images[0], "channels", text))
        else:
            complete.append((case.name, Scan(case.images, order)))
    return complete, incomplete

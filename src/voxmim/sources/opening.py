"""Opening a source: which kind it is, which cases it has, and which split each of them is in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.images.volume import SCAN_ENDINGS
from voxmim.sources.bids import bids
from voxmim.sources.datalist import LIST_ENDINGS, datalist
from voxmim.sources.decathlon import decathlon
from voxmim.sources.jsons import read_object
from voxmim.sources.listing import told_of
from voxmim.sources.nnunet import nnunet
from voxmim.sources.pairs import has_pairs, paired_cases
from voxmim.sources.plain import plain_folder
from voxmim.sources.source import Source
from voxmim.sources.splits import SPLITS_FILES, draw_split, follow_splits


def open_source(path: Path | str, seed: int = 0) -> Source:
    """Find the cases of a folder of scans, or of a list of them; no scan is read.

    Args:
        path: the folder or list.
        seed: of the split that is drawn where none is told.

    Raises:
        SourceError: the source is missing or empty, it contradicts itself, or the seed is negative.
    """
    path = Path(path).absolute()
    if seed < 0:
        raise SourceError(f"{path}: the seed of the split is {seed}, but must be 0 or more; choose another.")
    source = _of_its_kind(path)
    if not source.cases:
        more = f" ({source.findings[0].reason})" if source.findings else ""
        raise SourceError(
            f"{path}: there is no scan (DICOM, {', '.join(SCAN_ENDINGS)}) in this folder{more}; check the path."
        )
    twin, count = Counter(case.name for case in source.cases).most_common(1)[0]
    if count > 1:
        raise SourceError(f"{path}: {count} scans have the same name {twin}; rename or remove one of them.")
    cases = [replace(case, group=case.group or case.name) for case in source.cases]
    splits = next((path / name for name in SPLITS_FILES if (path / name).is_file()), None)
    cases = draw_split(cases, seed) if splits is None else follow_splits(splits, cases)
    return replace(
        source,
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        seed=seed,
    )


def _of_its_kind(path: Path) -> Source:
    """The source as its own kind of folder or file is read, before any split is drawn."""
    if path.is_file():
        if path.suffix.lower() not in LIST_ENDINGS:
            raise SourceError(f"{path}: a folder of scans is expected, or a list of them ({', '.join(LIST_ENDINGS)}).")
        return _with_told(datalist(path))
    if not path.is_dir():
        raise SourceError(f"{path}: there is no such folder or list; check the path.")
    if (path / "dataset_description.json").is_file():
        return bids(path)
    if (path / "dataset.json").is_file():
        values = read_object(path / "dataset.json")
        return _with_told(nnunet(path, values) if "file_ending" in values else decathlon(path, values))
    if has_pairs(path):
        return _with_told(Source(path, path.name, ("image",), {}, tuple(paired_cases(path, ("image",)))))
    return plain_folder(path)


def _with_told(source: Source) -> Source:
    """The source with what there is to say of the folders of DICOM among its images."""
    found = (finding for case in source.cases for image in case.images for finding in told_of(image))
    return replace(source, findings=(*source.findings, *found))

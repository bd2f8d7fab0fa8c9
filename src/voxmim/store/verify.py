"""Checking the files of a store against its index, checksums and label counts."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from voxmim.store.format import Case, Store
from voxmim.store.writing import digest_of, unfinished_files, written_case
from voxmim.workers import run


def verify(path: Path | str, workers: int | None = None, scheduler: str | None = None) -> list[str]:
    """Read all voxels of a store, and return a sentence for each fault.

    Raises StoreError if there is no store, its index is damaged, or it has no case.
    """
    store = Store(Path(path).absolute())
    with closing(run(partial(_faults_of, store), list(store.cases.values()), workers, scheduler)) as results:
        faults = [fault for faults in results for fault in faults]
    return sorted([*faults, *_stray_files(store)])


def _faults_of(store: Store, case: Case) -> list[str]:
    """A sentence for each fault of one case."""
    image_file, label_file = (store.path / kind / f"{case.name}.b2nd" for kind in ("images", "labels"))
    try:
        entry = written_case(image_file)
        image, label_map = store.image(case.name), None
        if case.label is not None:
            label_map, samples = store.label_map(case.name), store.samples(case.name)
    except Exception as error:  # Blosc2 and msgpack raise many kinds for damaged bytes
        text = str(error)
        return [text if str(store.path) in text else f"{image_file}: the case cannot be read ({error!r}); {_MEND}"]
    faults = []
    if wrong := [key for key in ("shape", "digest", "counts", "label") if getattr(case, key) != getattr(entry, key)]:
        faults.append(f"{image_file}: the index has another {' and '.join(wrong)} than the file; {_MEND}")
    elif image.shape[1:] != case.shape or digest_of(image, label_map) != case.digest:
        faults.append(f"{image_file}: voxels or labels are not those that were written; {_MEND}")
    elif label_map is not None:
        values, counts = np.unique(label_map[label_map > 0], return_counts=True)
        stray = [value for value, rows in samples.items() if np.any(label_map[tuple(rows.T)] != value)]
        if dict(zip(values.tolist(), counts.tolist(), strict=True)) != case.counts or stray:
            faults.append(f"{label_file}: label counts or samples are not those of its voxels; {_MEND}")
    return faults


_MEND = "delete the file and prepare its source again."


def _stray_files(store: Store) -> Iterator[str]:
    """A sentence for each file of no case."""
    labelled = {case.name for case in store.cases.values() if case.label is not None}
    for kind, names in (("images", store.cases.keys()), ("labels", labelled)):
        for file in (store.path / kind).glob("[!.]*"):
            if file.name.removesuffix(".b2nd") not in names:
                yield f"{file}: this file is of no case in the index; prepare its source again, or delete it."
    for file in unfinished_files(store.path):
        yield f"{file}: this file was never finished; 'voxmim prepare' removes it."

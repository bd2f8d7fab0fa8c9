"""Preparing the scans of a store again at another spacing."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from voxmim.doctor.reading import read_label
from voxmim.images.geometry import Spacing, resample_labels
from voxmim.store.format import Store
from voxmim.store.index import Case, Preparation
from voxmim.store.prepare import prepare_scan
from voxmim.store.writing import write_case, writing, written_cases
from voxmim.workers import run


def respace(store: Store, out: Path, spacing: Spacing) -> Store:
    """Prepare a store's scans from their source files at another spacing (mm), with the same splits and labels.

    Cases of the same files that are already in `out` are kept. Raises ScanError if a source file is missing or cannot
    be used, StoreError if `out` cannot be written to.
    """
    preparation = replace(store.preparation, spacing=spacing)
    with writing(out):
        written = {case.name: case for case in written_cases(out)}
        done, todo = [], []
        for case in store.cases.values():
            old = written.get(case.name)
            if old is None or (old.stamps, old.label) != (case.stamps, case.label):
                todo.append(case)
            else:
                done.append(replace(old, split=case.split, group=case.group))
        cases = [*done, *run(partial(_prepare, preparation=preparation, out=out.resolve()), todo)]
        replace(store.index, preparation=preparation, cases=cases, resplit=False).write(out)
    return Store(out)


def _prepare(case: Case, preparation: Preparation, out: Path) -> Case:
    scan = prepare_scan(case.image, preparation, case.missing)
    label_map = None
    if case.label is not None:
        label_map = read_label(Path(case.label), scan.original, Path(case.image[0]))
        label_map = resample_labels(label_map, scan.original, scan.grid)
    x, y, z = scan.grid.shape
    return write_case(out, replace(case, shape=(x, y, z)), scan.image, label_map)

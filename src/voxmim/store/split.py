"""Splitting a store anew: by a list, or drawn by seed, with all scans of a patient on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxmim.errors import StoreError
from voxmim.sources.jsons import read_object
from voxmim.sources.source import SPLITS
from voxmim.sources.splits import FRACTIONS, along, draw_parts, split_of_each
from voxmim.store.format import Case, Store
from voxmim.store.writing import write_index, writing


def split(
    path: Path | str,
    splits: Path | str | None = None,
    seed: int = 0,
    shares: tuple[float, float] = (FRACTIONS["val"], FRACTIONS["test"]),
) -> dict[str, int]:
    """Give the cases of a store other splits; no voxel is touched, and the store keeps them when it grows.

    Args:
        path: the store's folder.
        splits: a file such as a source's splits.json; what it does not list stays where it is. None draws.
        seed: of the drawing.
        shares: of the labelled cases that validate and that test; the rest trains.

    Returns:
        the number of cases of each split.

    Raises:
        StoreError: there is no store, another process is changing it, the shares make no sense, or the file puts scans
            of one patient on two sides.
        SourceError: the file names a case that is not there, a case twice, or a split that is none.
    """
    path = Path(path)
    if not (min(shares) >= 0 and sum(shares) < 1):
        raise StoreError(f"{path}: the shares {shares[0]:g} and {shares[1]:g} leave nothing to train on; choose less.")
    Store(path)  # so that no folder is made of a mistyped name
    with writing(path):
        store = Store(path)
        cases = list(store.cases.values())
        if splits is not None:
            split_of = split_of_each(Path(splits), read_object(Path(splits)), store.cases)
            cases = [replace(case, split=split_of.get(case.name, case.split)) for case in cases]
            _refuse_torn(Path(splits), cases)
        else:
            cases = _drawn(cases, seed, dict(zip(FRACTIONS, shares, strict=True)))
            store.seed = seed
        told = (store.name, store.preparation, store.labels, cases, store.seed, store.regions, store.licence, True)
        write_index(path, *told, findings=[one for one in store.findings if one.kind != "patient in two splits"])
    counts = Counter(case.split for case in cases)
    return {name: counts[name] for name in SPLITS}


def _drawn(cases: Sequence[Case], seed: int, shares: dict[str, float]) -> list[Case]:
    sizes = Counter(case.group for case in cases if case.label is not None)
    part_of = draw_parts(sizes, {part: share for part, share in shares.items() if share > 0}, seed)
    return [replace(case, split=along(case, part_of.get(case.group, "unlabelled"))) for case in cases]


def _refuse_torn(file: Path, cases: Sequence[Case]) -> None:
    """Refuse to put scans of one patient on two sides (unlabelled scans train, too)."""
    sides: dict[str, dict[str, str]] = {}
    for case in cases:
        side = "train" if case.split == "unlabelled" else case.split
        sides.setdefault(case.group, {}).setdefault(side, case.name)
    for group, found in sides.items():
        if len(found) > 1:
            listed = " and ".join(f"{name} in {side}" for side, name in found.items())
            raise StoreError(f"{file}: scans of patient {group} are on two sides, {listed}; put them into one split.")

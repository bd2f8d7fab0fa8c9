"""Splitting a store again, by a list or at random; all scans of a patient go into one split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voxmim.errors import StoreError
from voxmim.sources.jsons import read_object
from voxmim.sources.source import SPLITS
from voxmim.sources.splits import FRACTIONS, along, draw_parts, split_of_each
from voxmim.store.format import Store
from voxmim.store.index import Case
from voxmim.store.writing import writing


def split(
    path: Path | str,
    splits: Path | str | None = None,
    seed: int = 0,
    fractions: tuple[float, float] = (FRACTIONS["val"], FRACTIONS["test"]),
) -> dict[str, int]:
    """Change the splits of a store's cases; they stay when cases are added.

    Raises StoreError if there is no store, another process is changing it, the fractions are not valid, or the file
    puts scans of one patient into two splits; SourceError if it names an unknown case, a case twice, or no split.
    """
    path = Path(path)
    if not (min(fractions) >= 0 and sum(fractions) < 1):
        raise StoreError(
            f"{path}: the fractions {fractions[0]:g} and {fractions[1]:g} leave nothing to train on; reduce them."
        )
    Store(path)  # before `writing` creates a folder of a mistyped name
    with writing(path):
        index = Store(path).index
        cases = list(index.cases)
        if splits is not None:
            split_of = split_of_each(Path(splits), read_object(Path(splits)), {case.name for case in cases})
            cases = [replace(case, split=split_of.get(case.name, case.split)) for case in cases]
            _refuse_divided(Path(splits), cases)
        else:
            cases = _split_at_random(cases, seed, dict(zip(FRACTIONS, fractions, strict=True)))
            index = replace(index, seed=seed)
        findings = [finding for finding in index.findings if finding.kind != "patient in two splits"]
        replace(index, cases=cases, resplit=True, findings=findings).write(path)
    counts = Counter(case.split for case in cases)
    return {name: counts[name] for name in SPLITS}


def _split_at_random(cases: Sequence[Case], seed: int, fractions: dict[str, float]) -> list[Case]:
    sizes = Counter(case.group for case in cases if case.label is not None)
    part_of = draw_parts(sizes, {part: fraction for part, fraction in fractions.items() if fraction > 0}, seed)
    return [replace(case, split=along(case.label, part_of.get(case.group, "unlabelled"))) for case in cases]


def _refuse_divided(file: Path, cases: Sequence[Case]) -> None:
    """Raise StoreError if scans of one patient are in two splits; unlabelled scans are trained on, too."""
    splits: dict[str, dict[str, str]] = {}
    for case in cases:
        split = "train" if case.split == "unlabelled" else case.split
        splits.setdefault(case.group, {}).setdefault(split, case.name)
    for group, name_of in splits.items():
        if len(name_of) > 1:
            listed = " and ".join(f"{name} in {split}" for split, name in name_of.items())
            raise StoreError(f"{file}: scans of patient {group} are in two splits, {listed}; put them into one.")

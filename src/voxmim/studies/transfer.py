"""Does an encoder that was pre-trained on other scans help as one of the same scans does?"""

from __future__ import annotations

from itertools import combinations

from voxmim.errors import StoreError
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import difference_table, pretraining_table, score_table, tested_in_words, validation_plot


def arms(request: Request) -> list[Arm]:
    """For each store, one group: from scratch, and pre-trained on each of the stores, its own first.

    Raises:
        StoreError: two stores have the same name.
    """
    names = {path: _name(Store(path)) for path in request.stores}
    if len(set(names.values())) < len(names):
        raise StoreError(f"{', '.join(map(str, names))}: two of these stores are of one name and kind; take others.")
    found = []
    for path, name in names.items():
        told = {"store": path, "group": f"fine-tuned on {name}"}
        found.append(request.scratch(**told))
        for other in sorted(names, key=lambda other: other != path):
            arm = f"pre-trained on {names[other]}"
            found.append(request.pretrained(request.base.pretext, name=arm, pretrained_on=other, **told))
    return found


def findings(comparison: Comparison) -> Findings:
    """For each store a table of results, the differences of each pair, and the curves."""
    groups = grouped(comparison.arms)
    pairs = [pair for own in groups.values() for pair in combinations(own, 2)]
    return Findings(
        lead=[tested_in_words(comparison, own[0], arm) for own in groups.values() for arm in own[1:]],
        tables=[
            *(score_table(comparison, own, f"Test cases, {name}") for name, own in groups.items()),
            difference_table(comparison, pairs),
            pretraining_table(comparison),
        ],
        plots=[validation_plot(comparison, own, f"Dice on validation cases, {name}") for name, own in groups.items()],
    )


def _name(store: Store) -> str:
    return f"{store.name} ({store.preparation.intensity.upper()})"


STUDY = Study("Does an encoder pre-trained on other scans help?", arms, findings, stores=(2, 9))

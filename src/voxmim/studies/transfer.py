"""Does an encoder that was pre-trained on other scans help as one of the same scans does?"""

from __future__ import annotations

from itertools import combinations

from voxmim.errors import StoreError
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.asked import Asked
from voxmim.studies.tables import difference_table, pretraining_table, score_table, tested_in_words, validation_plot
from voxmim.studies.write import Shown


def arms(asked: Asked) -> list[Arm]:
    """For each store, one group: from scratch, and pre-trained on each of the stores, its own first.

    Raises:
        StoreError: two stores have the same name.
    """
    names = {path: _name(Store(path)) for path in asked.stores}
    if len(set(names.values())) < len(names):
        raise StoreError(f"{', '.join(map(str, names))}: two of these stores are of one name and kind; take others.")
    found = []
    for path, name in names.items():
        told = {"store": path, "group": f"fine-tuned on {name}"}
        found.append(asked.scratch(**told))
        for other in sorted(names, key=lambda other: other != path):
            arm = f"pre-trained on {names[other]}"
            found.append(asked.pretrained(asked.base.pretext, name=arm, pretrained_on=other, **told))
    return found


def shown(comparison: Comparison) -> Shown:
    """For each store a table of results, the differences of each pair, and the curves."""
    groups = grouped(comparison.arms)
    pairs = [pair for own in groups.values() for pair in combinations(own, 2)]
    return Shown(
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

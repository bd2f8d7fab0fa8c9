"""Does an encoder pre-trained on other scans help as much as one pre-trained on the same scans?"""

from itertools import combinations

from voxmim.errors import StoreError
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import grouped_findings


def arms(request: Request) -> list[Arm]:
    """A group for each store: from scratch, and pre-trained on each of the stores, its own first.

    Raises:
        StoreError: two stores have the same name.
    """
    names = {path: _name(Store(path)) for path in request.stores}
    if len(set(names.values())) < len(names):
        raise StoreError(f"{', '.join(map(str, names))}: two of these stores have one name and kind; name others.")
    found = []
    for path, name in names.items():
        group = {"store": path, "group": f"fine-tuned on {name}"}
        found.append(request.scratch(**group))
        for other in sorted(names, key=lambda other: other != path):
            arm = f"pre-trained on {names[other]}"
            found.append(request.pretrained(request.base.pretext, name=arm, pretrained_on=other, **group))
    return found


def findings(comparison: Comparison) -> Findings:
    """Scores and curves for each store, and the difference of each pair."""
    groups = grouped(comparison.arms).values()
    return grouped_findings(comparison, [pair for arms in groups for pair in combinations(arms, 2)])


def _name(store: Store) -> str:
    return f"{store.name} ({store.preparation.intensity.upper()})"


STUDY = Study("Does an encoder pre-trained on other scans help?", arms, findings, stores=(2, 9))

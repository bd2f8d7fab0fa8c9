"""The cases of a store that a fine-tuning trains on."""

from collections.abc import Sequence

import numpy as np

from voxmim.errors import StoreError
from voxmim.store.format import Case, Store


def labelled_train_cases(store: Store, labels: str | None, seed: int) -> list[Case]:
    """A random sample of the labelled train cases; with the same seed, a smaller sample is a part of a larger one.

    `labels` is a fraction such as ``0.1``, a number such as ``12``, or ``all``; None is all. Cases that lack a channel
    are left out.

    Raises:
        StoreError: there is no such case, or `labels` is not valid.
    """
    cases = store.labelled("train")
    if not cases and any(case.label for case in store.in_split("train")):
        raise StoreError(f"{store.path}: each of its labelled train cases lacks a channel; add files, or leave it out.")
    if not cases or not store.labels:
        raise StoreError(f"{store.path}: it has no labelled train case to fine-tune on; prepare a source with labels.")
    if labels is None:
        return cases
    order = np.random.default_rng([seed, 11]).permutation(len(cases))
    return [cases[i] for i in sorted(order[: label_count(labels, len(cases), store)])]


def label_count(labels: str, cases: int, store: Store, minimum: int = 1) -> int:
    """The number of cases that ``--labels`` stands for: all, a fraction (at least `minimum`) or a number.

    Raises:
        StoreError: it is not ``all``, a fraction up to 1 or a number from `minimum` to `cases`.
    """
    if labels == "all":
        return cases
    try:
        count = max(minimum, round(float(labels) * cases)) if "." in labels else int(labels)
        valid = 0 < float(labels) <= 1 if "." in labels else minimum <= count <= cases
    except ValueError:
        count, valid = 0, False
    if not valid:
        raise StoreError(
            f"--labels {labels}: give all, a fraction such as 0.1 or a number from {minimum} to {cases}, "
            f"the labelled train cases of {store.path}."
        )
    return count


def resumed_cases(store: Store, names: Sequence[str]) -> list[Case]:
    """The cases that a resumed run was trained on.

    Raises:
        StoreError: one of them is no longer in the store.
    """
    missing = [name for name in names if name not in store.cases]
    if missing:
        raise StoreError(f"{store.path}: {missing[0]}, which the run was trained on, is gone; prepare it again.")
    return [store.cases[name] for name in names]

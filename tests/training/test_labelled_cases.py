"""`--labels`: how many of the labelled train cases a fine-tuning uses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.errors import StoreError
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.tasks.cases import labelled_train_cases


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The index of a store with 30 labelled train cases, 3 unlabelled and 5 test cases."""
    path = tmp_path_factory.mktemp("listed")
    cases = [
        Case(f"case_{i:02d}", "train" if i < 33 else "test", (8, 8, 8), ("i.nii.gz",), None if i % 11 == 5 else "l.nii")
        for i in range(38)
    ]
    Index("listed", Preparation((1, 1, 1), "ct", ("CT",)), {1: "bone"}, cases).write(path)
    return Store(path)


# Selection of cases


def test_all_labelled_train_cases_are_used_by_default(listed: Store) -> None:
    cases = labelled_train_cases(listed, None, seed=0)
    assert [case.name for case in cases] == [f"case_{i:02d}" for i in range(33) if i % 11 != 5]
    for labels in ("all", "1.0", "30"):
        assert labelled_train_cases(listed, labels, seed=0) == cases


@pytest.mark.parametrize(("labels", "count"), [("0.1", 3), ("3", 3), ("1", 1), ("0.5", 15), ("0.001", 1), ("29", 29)])
def test_labels_is_a_fraction_or_a_number(listed: Store, labels: str, count: int) -> None:
    cases = labelled_train_cases(listed, labels, seed=0)
    assert len({case.name for case in cases}) == len(cases) == count
    assert all(case.split == "train" and case.label for case in cases)
    assert cases == labelled_train_cases(listed, labels, seed=0)
    if 1 < count < 29:
        assert cases != labelled_train_cases(listed, labels, seed=1)


@given(fewer=st.integers(1, 30), more=st.integers(1, 30), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_smaller_draws_are_subsets_of_larger_ones(listed: Store, fewer: int, more: int, seed: int) -> None:
    fewer, more = sorted((fewer, more))
    part, whole = ({case.name for case in labelled_train_cases(listed, str(n), seed)} for n in (fewer, more))
    assert part <= whole
    assert (len(part), len(whole)) == (fewer, more)


@pytest.mark.parametrize("labels", ["0", "0.0", "-1", "-0.5", "31", "1.5", "many", "nan", "", "3 cases", "inf"])
def test_invalid_labels_are_refused(listed: Store, labels: str) -> None:
    with pytest.raises(
        StoreError, match=rf"--labels {labels}: give all, a fraction such as 0\.1 or a number from 1 to 30"
    ):
        labelled_train_cases(listed, labels, seed=0)

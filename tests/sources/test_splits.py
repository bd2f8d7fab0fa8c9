"""Given and drawn splits: each patient in one split, fractions as requested, determined by the seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_folders import DATASET, fill, pairs
from source_folders import splits_of as splits_of_source
from voxmim.errors import SourceError
from voxmim.sources import open_source
from voxmim.sources.source import SourceCase
from voxmim.sources.splits import draw_parts, draw_split

SIDES = {"train": "trained", "unlabelled": "trained", "val": "val", "test": "test"}
groups_of = st.lists(st.integers(0, 25), min_size=1, max_size=80)


def case(name: str, group: str, labelled: bool = True, split: str = "") -> SourceCase:
    return SourceCase(name, (Path(f"{name}.nii"),), Path(f"{name}-label.nii") if labelled else None, split, (), group)


def splits_of(cases: list[SourceCase], seed: int = 0) -> dict[str, str]:
    return {case.name: case.split for case in draw_split(cases, seed)}


def plain_reference(names: list[str], seed: int, held_out: bool) -> dict[str, str]:
    """For one case per patient: shuffle the sorted names, take val, then test, and train on the rest."""
    shuffled = [sorted(names)[i] for i in np.random.default_rng(seed).permutation(len(names))]
    splits = {}
    for index, name in enumerate(shuffled):
        val = max(1, round(0.15 * len(names))) if len(names) >= 4 else 0
        test = max(1, round(0.25 * len(names))) if len(names) >= 4 and not held_out else 0
        splits[name] = "val" if index < val else "test" if index < val + test else "train"
    return splits


@given(count=st.integers(1, 60), seed=st.integers(0, 99), held_out=st.booleans())
def test_splits_of_cases_with_one_patient_each_agree_with_a_plain_reference(
    count: int, seed: int, held_out: bool
) -> None:
    names = [f"c{(index * 37) % 101}" for index in range(count)]
    cases = [case(name, name) for name in names] + [case("t", "t", split="test")] * held_out
    expected = plain_reference(names, seed, held_out) | ({"t": "test"} if held_out else {})
    assert splits_of(cases, seed) == expected


@given(groups=groups_of, labelled=st.lists(st.booleans(), min_size=80, max_size=80), seed=st.integers(0, 99),
       fixed=st.dictionaries(st.integers(0, 25), st.sampled_from(["train", "val", "test"])))  # fmt: skip
def test_no_patient_is_in_two_splits(groups: list[int], labelled: list[bool], seed: int, fixed: dict[int, str]) -> None:
    """The other scans of a patient follow the split given for the first."""
    cases = []
    for index, group in enumerate(groups):
        first = group not in groups[:index]
        cases.append(case(f"c{index}", f"p{group}", labelled[index], fixed.get(group, "") if first else ""))
    drawn = draw_split(cases, seed)
    sides: dict[str, set[str]] = {}
    for each in drawn:
        sides.setdefault(each.group, set()).add(SIDES[each.split])
        assert each.split != "unlabelled" or each.label is None
    assert all(len(splits) == 1 for splits in sides.values())
    assert drawn == draw_split(cases, seed)
    assert all(new.split == old.split for new, old in zip(drawn, cases, strict=True) if old.split)
    assert {each.name: each.split for each in draw_split(cases[::-1], seed)} == {
        each.name: each.split for each in drawn
    }


@given(sizes=st.dictionaries(st.integers().map(str), st.integers(1, 12), min_size=4, max_size=40),
       seed=st.integers(0, 99))  # fmt: skip
def test_fractions_are_close_to_those_requested(sizes: dict[str, int], seed: int) -> None:
    fractions = {"val": 0.15, "test": 0.25}
    part_of = draw_parts(sizes, fractions, seed)
    total, counts = sum(sizes.values()), Counter[str]()
    for name, part in part_of.items():
        counts[part] += sizes[name]
    assert part_of.keys() == sizes.keys()
    assert set(counts) == {"train", "val", "test"}
    for part, fraction in fractions.items():
        assert abs(counts[part] - fraction * total) <= 1 + 1.5 * max(sizes.values())


def test_a_patient_with_most_of_the_scans_is_in_train() -> None:
    part_of = draw_parts({"large": 100, "a": 1, "b": 1, "c": 1}, {"val": 0.15, "test": 0.25}, seed=0)
    assert part_of.pop("large") == "train"
    assert set(part_of.values()) == {"val", "test"}


def test_a_few_patients_with_many_scans_are_all_in_train() -> None:
    cases = [case(f"c{index}", f"p{index % 3}") for index in range(30)]
    assert set(splits_of(cases).values()) == {"train"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_given_splits_are_kept_and_no_others_are_drawn(split: str) -> None:
    cases = [case(f"c{index:02}", f"p{index:02}") for index in range(20)]
    drawn = splits_of([*cases, case("given", "given", split=split), case("more", "given", labelled=False)])
    assert drawn.pop("given") == drawn.pop("more") == split
    assert set(drawn.values()) == {"train", "val", "test"} - {split}


def test_of_two_given_splits_of_a_patient_the_one_outside_training_applies_to_the_rest() -> None:
    cases = [case("a", "p", split="test"), case("b", "p", split="val"), case("c", "p", split="train")]
    for order in (cases, cases[::-1]):
        assert splits_of([*order, case("d", "p", labelled=False)])["d"] == "test"


def test_an_unlabelled_scan_of_a_train_patient_stays_unlabelled() -> None:
    cases = [case("a", "p", split="train"), case("b", "p", labelled=False), case("c", "p", split="unlabelled")]
    assert splits_of(cases) == {"a": "train", "b": "unlabelled", "c": "unlabelled"}


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (3, (3, 0, 0)), (4, (2, 1, 1)), (100, (60, 15, 25))])
def test_a_drawn_split_is_determined_by_the_seed(tmp_path: Path, count: int, expected: tuple[int, ...]) -> None:
    path = fill(tmp_path, *pairs(count), "imagesTr/x.nii", dataset=DATASET)
    splits = splits_of_source(open_source(path, seed=1))
    counts = Counter(splits.values())
    assert (counts["train"], counts["val"], counts["test"]) == expected
    assert splits["x"] == "unlabelled"
    assert splits == splits_of_source(open_source(path, seed=1))
    if count == 100:
        assert splits != splits_of_source(open_source(path, seed=2))


def test_a_split_file_is_followed_and_unlisted_cases_left_out(tmp_path: Path) -> None:
    files = ["imagesTs/t.nii", "extra_unlabelled/u.nii", "imagesTr/n.nii", *pairs(4)]
    lists = {"train": ["a000", "n"], "val": ["a002"], "test": ["t"]}
    fill(tmp_path, *files, dataset=DATASET, splits=lists)
    expected = {"a000": "train", "a002": "val", "n": "train", "t": "test", "u": "unlabelled"}
    assert splits_of_source(open_source(tmp_path)) == expected
    fill(tmp_path, splits={**lists, "unlabelled": ["a001"]})
    del expected["u"]
    assert splits_of_source(open_source(tmp_path)) == {**expected, "a001": "unlabelled"}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["a000", "a009"]}, "there is no scan for case 'a009' of 'train'; did you mean 'a00"),
        ({"training": []}, "'training' is no split .*did you mean 'train'"),
        ({"train": ["a000"], "val": ["a000"]}, "case 'a000' is listed twice"),
        ({"train": "a000"}, "'train' must be a list"),
        (["a000"], "a JSON object is expected"),
        ("{", "not valid JSON"),
    ],
)
def test_an_invalid_split_file_is_refused(tmp_path: Path, splits: object, message: str) -> None:
    with pytest.raises(SourceError, match=rf"splits\.json: .*{message}"):
        open_source(fill(tmp_path, *pairs(2), dataset=DATASET, splits=splits))

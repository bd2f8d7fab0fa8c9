"""Labels or regions: outputs, probabilities, decisions, and matching with other data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.errors import StoreError
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.tasks.segmentation.structures import Structures

BRATS_2021 = Structures({1: "NCR", 2: "ED", 4: "ET"}, {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)})
BRATS_2023 = Structures({1: "NCR", 2: "ED", 3: "ET"}, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
CROSSING = Structures({1: "a", 2: "b", 5: "c"}, {"left": (1, 2), "right": (2, 5)})
EXCLUSIVE = Structures({1: "bone", 3: "fat"}, values=(0, 1, 3))


def at_one_voxel(structures: Structures, probabilities: list[float]) -> int:
    return int(structures.decide(np.float32(probabilities).reshape(-1, 1, 1, 1)).item())


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3, unique=True))
@settings(max_examples=60)
def test_nested_regions_are_thresholded_at_one_half(drawn: list[float]) -> None:
    """For probabilities that decrease from outer to inner regions, the union of labels is the thresholded region."""
    outer, core, enhancing = sorted(np.float32(drawn), reverse=True)
    for structures, order in ((BRATS_2021, (core, outer, enhancing)), (BRATS_2023, (outer, core, enhancing))):
        value = at_one_voxel(structures, list(order))
        for p, values in zip(order, structures.regions.values(), strict=True):
            assert (value in values) == (p > 0.5)


def test_a_region_below_one_half_is_never_positive() -> None:
    assert at_one_voxel(BRATS_2023, [0.4, 0.9, 0.1]) == 0  # a core outside the whole tumour
    assert at_one_voxel(BRATS_2023, [0.9, 0.4, 0.9]) == 2  # enhancing, but not in the core: oedema
    assert at_one_voxel(BRATS_2023, [0.9, 0.9, 0.4]) == 1


@pytest.mark.parametrize("structures", [BRATS_2021, BRATS_2023, CROSSING])
@given(data=st.data())
@settings(max_examples=60)
def test_a_voxel_gets_the_label_in_the_most_positive_regions(structures: Structures, data: st.DataObject) -> None:
    count = len(structures.regions)
    drawn = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    positive = {name for name, p in zip(structures.regions, np.float32(drawn), strict=True) if p > 0.5}
    possible = {0: 0}
    for value in structures.labels:
        member = {name for name, values in structures.regions.items() if value in values}
        if member <= positive:
            possible[value] = len(member)
    value = at_one_voxel(structures, drawn)
    assert possible[value] == max(possible.values())


def test_the_lowest_of_the_labels_in_the_same_regions_is_used() -> None:
    structures = Structures({1: "a", 2: "b", 3: "c", 7: "of no region"}, {"whole": (2, 1), "part": (3,)})
    assert at_one_voxel(structures, [0.9, 0.2]) == 1
    assert at_one_voxel(structures, [0.2, 0.9]) == 3


def test_label_values_are_restored_from_consecutive_outputs() -> None:
    label = torch.tensor([0, 1, 255, 7]).reshape(1, 1, 4, 1, 1)
    structures = Structures({255: "tumour", 1: "bone"}, values=(0, 1, 255))
    assert structures.outputs == 3
    assert structures.targets(label).flatten().tolist() == [0, 1, 2, 0]
    probabilities = np.float32([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2]]).T[:, :, None, None]
    assert structures.decide(probabilities).flatten().tolist() == [255, 0]
    assert structures.parts == {"tumour": (255,), "bone": (1,)}


def test_outputs_of_labels_are_softmax_and_of_regions_sigmoid() -> None:
    logits = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert (EXCLUSIVE.outputs, BRATS_2021.outputs, CROSSING.outputs) == (3, 3, 2)
    torch.testing.assert_close(EXCLUSIVE.activate(logits).sum(1), torch.ones(2, 2, 2, 2))
    torch.testing.assert_close(BRATS_2021.activate(logits), 1 / (1 + (-logits).exp()))


def test_masks_of_regions_contain_their_labels() -> None:
    label = torch.tensor([0, 1, 2, 4, 3]).reshape(1, 1, 5, 1, 1)
    expected = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]).float()
    assert torch.equal(BRATS_2021.masks(label)[0, :, :, 0, 0], expected)


@pytest.mark.parametrize("structures", [BRATS_2021, EXCLUSIVE])
def test_structures_are_restored_from_metadata(structures: Structures) -> None:
    restored = Structures.from_metadata(json.loads(json.dumps(structures.metadata())))
    assert restored == structures
    assert list(restored.regions) == list(structures.regions)


def test_weights_of_version_0_1_have_an_output_for_every_value() -> None:
    assert Structures.from_metadata({"labels": {"1": "bone", "3": "fat"}}).values == (0, 1, 2, 3)


def store_of(path: Path, counts: list[dict[int, int]]) -> Store:
    cases = [Case(f"c{index}", "train", (4, 4, 4), ("a.nii",), "l.nii", count) for index, count in enumerate(counts)]
    regions = {"WT": (1, 2, 4), "ET": (4,)}
    Index("brats", Preparation((1, 1, 1), "mr", ("T1",)), BRATS_2021.labels, cases, regions=regions).write(path)
    return Store(path)


def test_only_labels_in_training_cases_are_learned(tmp_path: Path) -> None:
    store = store_of(tmp_path, [{0: 9, 1: 3}, {2: 1, 4: 0}])
    structures = Structures.of_store(store, list(store.cases.values()))
    assert structures.labels == {1: "NCR", 2: "ED"}
    assert structures.regions == {"WT": (1, 2)}
    assert structures.unseen == {4: "ET"}


def test_empty_label_maps_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, [{0: 9}, {}])
    with pytest.raises(StoreError, match="the label maps of 2 training cases are all empty"):
        Structures.of_store(store, list(store.cases.values()))


# Other data sets


def test_labels_of_other_data_sets_are_matched_by_name(tmp_path: Path) -> None:
    table, parts, unknown = EXCLUSIVE.match({2: "Fat", 4: "bone", 5: "skin"}, tmp_path)
    assert table[[0, 2, 4, 5]].tolist() == [0, 3, 1, 0]
    assert list(parts) == ["bone", "fat"]
    assert unknown == ["skin"]


def test_structures_without_labels_in_other_data_are_not_scored(tmp_path: Path) -> None:
    assert list(EXCLUSIVE.match({1: "bone"}, tmp_path)[1]) == ["bone"]
    assert list(BRATS_2021.match({1: "NCR", 3: "ET"}, tmp_path)[1]) == ["TC", "ET"]


def test_labels_without_names_are_matched_by_value(tmp_path: Path) -> None:
    for labels in ({}, {1: "label 1", 3: "label 3"}):
        table, parts, _ = EXCLUSIVE.match(labels, tmp_path)
        assert table[[1, 3]].tolist() == [1, 3]
        assert list(parts) == ["bone", "fat"]


def test_data_without_any_known_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none of its labels \(liver\) is one that the segmentor knows \(bone, fat\)"):
        EXCLUSIVE.match({1: "liver"}, tmp_path)

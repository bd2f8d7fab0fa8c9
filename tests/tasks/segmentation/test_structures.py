"""Labels or regions: how many outputs, which probabilities, and always a label map in the end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.tasks.segmentation.structures import Structures

BRATS_2021 = Structures({1: "NCR", 2: "ED", 4: "ET"}, {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)})
BRATS_2023 = Structures({1: "NCR", 2: "ED", 3: "ET"}, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
CROSSING = Structures({1: "a", 2: "b", 5: "c"}, {"left": (1, 2), "right": (2, 5)})
EXCLUSIVE = Structures({1: "bone", 3: "fat"})


def slow_shares(structures: Structures, probabilities: list[float]) -> dict[int, float]:
    """The share of each label value at one voxel, as the rule reads; labels of one signature count once."""
    shares, seen = {}, set()
    for value in [0, *sorted(structures.labels)]:
        signature = tuple(value in values for values in structures.regions.values())
        if signature not in seen:
            seen.add(signature)
            shares[value] = np.prod(
                [p if inside else 1 - p for p, inside in zip(probabilities, signature, strict=True)]
            )
    total = sum(shares.values())
    return {value: share / total for value, share in shares.items()}


def at_one_voxel(structures: Structures, probabilities: list[float]) -> np.ndarray:
    return structures.label_shares(np.float32(probabilities).reshape(-1, 1, 1, 1))[:, 0, 0, 0]


@pytest.mark.parametrize("structures", [BRATS_2021, BRATS_2023, CROSSING])
@given(data=st.data())
@settings(max_examples=60)
def test_a_labels_share_is_the_product_over_the_regions(structures: Structures, data: st.DataObject) -> None:
    count = len(structures.regions)
    probabilities = data.draw(st.lists(st.floats(0.001, 0.999), min_size=count, max_size=count))
    found, slow = at_one_voxel(structures, probabilities), slow_shares(structures, probabilities)
    assert len(found) == max(structures.labels) + 1
    for value, share in enumerate(found):
        assert share == pytest.approx(slow.get(value, 0.0), abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3, unique=True))
@settings(max_examples=200)
def test_regions_within_each_other_come_out_as_each_of_them_over_one_half(drawn: list[float]) -> None:
    """Probabilities that fall from the outer region to the inner: the union of labels is the thresholded region."""
    whole, core, enhancing = sorted(drawn, reverse=True)
    if min(abs(p - 0.5) for p in drawn) < 1e-3 or max(drawn) - min(drawn) < 1e-3:
        return
    for structures, order in ((BRATS_2021, (core, whole, enhancing)), (BRATS_2023, (whole, core, enhancing))):
        value = int(at_one_voxel(structures, list(order)).argmax())
        for p, values in zip(order, structures.regions.values(), strict=True):
            assert (value in values) == (p > 0.5)


@pytest.mark.parametrize("structures", [BRATS_2021, BRATS_2023, CROSSING])
def test_whatever_the_network_says_the_label_map_holds_known_values(structures: Structures) -> None:
    """Also where it is as sure as can be of what no label is: enhancing, but outside the whole tumour."""
    sure = [0.0, 1e-30, 0.5, 1.0 - 1e-7, 1.0]
    grid = np.float32(list(itertools.product(sure, repeat=len(structures.regions)))).T[:, :, None, None]
    shares = structures.label_shares(grid)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    assert set(np.unique(shares.argmax(0))) <= {0, *structures.labels}
    nowhere, everywhere = np.zeros_like(grid[:, :1]), np.ones_like(grid[:, :1])
    assert structures.label_shares(nowhere).argmax(0).item() == 0
    inner = {1: "b", 2: "b", 4: "ET", 3: "ET"}[int(structures.label_shares(everywhere).argmax(0).item())]
    assert inner == ("b" if structures is CROSSING else "ET")


def test_of_labels_in_the_same_regions_the_lowest_stands_for_all() -> None:
    structures = Structures({1: "a", 2: "b", 3: "c", 7: "of no region"}, {"whole": (2, 1), "part": (3,)})
    assert at_one_voxel(structures, [0.9, 0.2]).argmax() == 1
    assert np.flatnonzero(at_one_voxel(structures, [0.5, 0.5])).tolist() == [0, 1, 3]


def test_labels_keep_their_own_probabilities() -> None:
    probabilities = np.random.default_rng(0).random((4, 2, 3, 4), dtype=np.float32)
    assert EXCLUSIVE.label_shares(probabilities) is probabilities
    assert EXCLUSIVE.parts == {"bone": (1,), "fat": (3,)}
    assert list(BRATS_2021.parts.items()) == [("TC", (1, 4)), ("WT", (1, 2, 4)), ("ET", (4,))]


def test_outputs_and_their_probabilities() -> None:
    logits = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert (EXCLUSIVE.outputs, BRATS_2021.outputs, CROSSING.outputs) == (4, 3, 2)
    torch.testing.assert_close(EXCLUSIVE.activate(logits).sum(1), torch.ones(2, 2, 2, 2))
    torch.testing.assert_close(BRATS_2021.activate(logits), 1 / (1 + (-logits).exp()))


def test_masks_hold_each_regions_labels() -> None:
    label = torch.tensor([0, 1, 2, 4, 3]).reshape(1, 1, 5, 1, 1)
    expected = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]).float()
    assert torch.equal(BRATS_2021.masks(label)[0, :, :, 0, 0], expected)


@pytest.mark.parametrize("structures", [BRATS_2021, EXCLUSIVE])
def test_they_come_back_from_weights_and_from_a_store(structures: Structures, tmp_path: Path) -> None:
    assert Structures.from_metadata(json.loads(json.dumps(structures.metadata()))) == structures
    assert list(Structures.from_metadata(structures.metadata()).regions) == list(structures.regions)
    case = Case("a", "train", (4, 4, 4), ("a.nii",))
    preparation = Preparation((1, 1, 1), "mr", ("T1",))
    Index("brats", preparation, structures.labels, [case], regions=structures.regions).write(tmp_path)
    assert Structures.of_store(Store(tmp_path)) == structures


def test_weights_that_say_nothing_of_regions_tell_labels_apart() -> None:
    assert Structures.from_metadata({"labels": {"1": "bone", "3": "fat"}}) == EXCLUSIVE

"""What is hidden: exactly so many patches, uniformly drawn, the same from the same seed."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.pretext.masking import random_mask, visible_index


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(batch=st.integers(1, 4), patches=st.integers(2, 80), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
@settings(max_examples=80, deadline=None)
def test_each_sample_has_exactly_its_share_hidden(batch: int, patches: int, ratio: float, seed: int) -> None:
    mask = random_mask(batch, patches, ratio, seeded(seed))
    assert mask.shape == (batch, patches)
    assert mask.dtype == torch.bool
    expected = min(max(round(ratio * patches), 1), patches - 1)
    assert mask.sum(1).tolist() == [expected] * batch
    assert torch.equal(mask, random_mask(batch, patches, ratio, seeded(seed)))


@given(batch=st.integers(1, 4), patches=st.integers(2, 60), ratio=st.floats(0.1, 0.9), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_the_visible_index_rises_and_names_what_is_not_hidden(
    batch: int, patches: int, ratio: float, seed: int
) -> None:
    mask = random_mask(batch, patches, ratio, seeded(seed))
    index = visible_index(mask)
    for row, sample in zip(index.tolist(), mask.tolist(), strict=True):
        assert row == [i for i, hidden in enumerate(sample) if not hidden]


def test_every_patch_and_every_pair_is_hidden_as_often_as_the_next() -> None:
    masks = random_mask(6000, 8, 0.5, seeded(0)).double()
    together = masks.T @ masks / len(masks)
    single, pair = 0.5, 0.5 * 3 / 7
    expected = torch.full((8, 8), pair).fill_diagonal_(single).double()
    torch.testing.assert_close(together, expected, atol=0.03, rtol=0)  # over four standard deviations


def test_samples_and_seeds_differ() -> None:
    masks = random_mask(2, 64, 0.75, seeded(0))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, random_mask(2, 64, 0.75, seeded(1)))

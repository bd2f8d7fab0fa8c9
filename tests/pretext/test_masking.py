"""Masks hide an exact number of patches, reproducibly from a seed: random, in blocks, or mostly on the body."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.networks.patches import Triple, mask_to_voxels, patchify
from voxmim.pretext.masking import (
    block_mask,
    body_mask,
    draw_masks,
    is_body,
    random_mask,
    visible_index,
)
from voxmim.settings import MaskSettings


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(batch=st.integers(1, 4), patches=st.integers(2, 80), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_random_masks_hide_exactly_the_ratio_of_each_sample(batch: int, patches: int, ratio: float, seed: int) -> None:
    mask = random_mask(batch, patches, ratio, seeded(seed))
    assert mask.shape == (batch, patches)
    assert mask.dtype == torch.bool
    expected = min(max(round(ratio * patches), 1), patches - 1)
    assert mask.sum(1).tolist() == [expected] * batch
    assert torch.equal(mask, random_mask(batch, patches, ratio, seeded(seed)))


@given(batch=st.integers(1, 4), patches=st.integers(2, 60), ratio=st.floats(0.1, 0.9), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_the_visible_index_lists_the_visible_patches_in_order(
    batch: int, patches: int, ratio: float, seed: int
) -> None:
    mask = random_mask(batch, patches, ratio, seeded(seed))
    index = visible_index(mask)
    for row, sample in zip(index.tolist(), mask.tolist(), strict=True):
        assert row == [i for i, hidden in enumerate(sample) if not hidden]


def test_all_patches_and_all_pairs_are_hidden_equally_often() -> None:
    masks = random_mask(6000, 8, 0.5, seeded(0)).double()
    together = masks.T @ masks / len(masks)
    single, pair = 0.5, 0.5 * 3 / 7
    expected = torch.full((8, 8), pair).fill_diagonal_(single).double()
    torch.testing.assert_close(together, expected, atol=0.03, rtol=0)  # over four standard deviations


def test_samples_and_seeds_differ() -> None:
    masks = random_mask(2, 64, 0.75, seeded(0))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, random_mask(2, 64, 0.75, seeded(1)))


grids = st.tuples(*[st.integers(1, 7)] * 3).filter(lambda grid: math.prod(grid) >= 2)
ratios = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**40)


def number_hidden(patches: int, ratio: float) -> int:
    return min(max(round(ratio * patches), 1), patches - 1)


def agreement(masks: torch.Tensor, grid: Triple) -> float:
    """The fraction of adjacent pairs of patches that are both hidden or both visible."""
    volume = masks.reshape(-1, *grid)
    pairs = [volume.narrow(a, 0, n - 1) == volume.narrow(a, 1, n - 1) for a, n in enumerate(grid, start=1)]
    return torch.cat([pair.flatten() for pair in pairs]).float().mean().item()


@given(batch=st.integers(1, 3), grid=grids, ratio=ratios, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_blocks_hide_exactly_the_ratio_of_each_sample(batch: int, grid: Triple, ratio: float, seed: int) -> None:
    mask = block_mask(batch, grid, ratio, seeded(seed))
    patches = math.prod(grid)
    assert mask.shape == (batch, patches)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [number_hidden(patches, ratio)] * batch
    assert torch.equal(mask, block_mask(batch, grid, ratio, seeded(seed)))


@pytest.mark.parametrize("grid", [(6, 6, 6), (12, 5, 8)])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
def test_blocks_are_contiguous_and_random_patches_are_not(grid: Triple, ratio: float) -> None:
    blocks = block_mask(20, grid, ratio, seeded(0))
    scattered = random_mask(20, math.prod(grid), ratio, seeded(0))
    by_chance = ratio**2 + (1 - ratio) ** 2
    assert agreement(scattered, grid) == pytest.approx(by_chance, abs=0.03)
    assert agreement(blocks, grid) > by_chance + 0.15


def test_a_block_is_a_cuboid_except_for_its_trimmed_end() -> None:
    """A few patches are often a single block, which fills its bounding box except for part of one layer."""
    grid, hidden = (10, 10, 10), 20
    whole = 0
    for sample in block_mask(60, grid, 0.02, seeded(0)).reshape(-1, *grid):
        where = sample.nonzero()
        layer, *others = (where.amax(0) - where.amin(0) + 1).tolist()
        whole += layer * math.prod(others) - hidden < math.prod(others)
    assert whole >= 30


def test_blocks_hide_the_border_as_often_as_the_middle_and_both_ends_equally_often() -> None:
    frequency = block_mask(1000, (6, 5, 4), 0.5, seeded(0)).float().mean(0).reshape(6, 5, 4)
    for axis in range(3):
        profile = frequency.mean([a for a in range(3) if a != axis])
        torch.testing.assert_close(profile, torch.full_like(profile, 0.5), atol=0.07, rtol=0)
        torch.testing.assert_close(profile, profile.flip(0), atol=0.05, rtol=0)


def test_blocks_differ_from_sample_to_sample_and_seed_to_seed() -> None:
    masks = block_mask(2, (5, 5, 5), 0.5, seeded(0))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, block_mask(2, (5, 5, 5), 0.5, seeded(1)))


@given(
    body=st.integers(2, 60).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)),
    ratio=ratios,
    fraction=st.floats(0, 1),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_the_given_fraction_of_the_hidden_patches_is_on_the_body(
    body: list[list[bool]], ratio: float, fraction: float, seed: int
) -> None:
    where = torch.tensor(body)
    mask = body_mask(where, ratio, fraction, seeded(seed))
    assert mask.dtype == torch.bool
    assert torch.equal(mask, body_mask(where, ratio, fraction, seeded(seed)))
    for sample, hidden in zip(body, mask.tolist(), strict=True):
        count = number_hidden(len(sample), ratio)
        target, body_patches, other_patches = round(fraction * count), sum(sample), len(sample) - sum(sample)
        on_body = sum(h and b for h, b in zip(hidden, sample, strict=True))
        assert sum(hidden) == count
        maximum = body_patches - math.ceil(body_patches * (1 - ratio) / 2)
        if count - min(target, maximum) > other_patches:
            assert on_body == count - other_patches
        else:
            assert on_body == min(target, maximum)


def test_a_body_that_fills_half_of_a_crop_is_not_hidden_completely() -> None:
    body = torch.arange(400).expand(3, -1) < 200
    hidden = body_mask(body, 0.75, 0.9, seeded(0))
    assert hidden.sum(1).tolist() == [300] * 3
    assert (hidden & body).sum(1).tolist() == [175] * 3  # a random mask would hide 150


def test_within_the_body_and_outside_it_all_patches_and_pairs_are_hidden_equally_often() -> None:
    body = torch.tensor([1, 0, 1, 0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    masks = body_mask(body.expand(6000, -1), 0.5, 0.6, seeded(0)).double()
    frequency = (masks.T @ masks / len(masks)).fill_diagonal_(0) + masks.mean(0).diag()
    on, off = body.double(), (~body).double()
    # 3 of the 4 patches of the body, and 2 of the other 6, drawn independently
    pairs = 3 / 4 * 2 / 3 * torch.outer(on, on) + 2 / 6 * 1 / 5 * torch.outer(off, off)
    pairs += 3 / 4 * 2 / 6 * (torch.outer(on, off) + torch.outer(off, on))
    expected = pairs.fill_diagonal_(0) + (3 / 4 * on + 2 / 6 * off).diag()
    torch.testing.assert_close(frequency, expected, atol=0.03, rtol=0)  # over four standard deviations


@given(
    grid=st.tuples(*[st.integers(1, 3)] * 3).filter(lambda grid: math.prod(grid) >= 2),
    times=st.tuples(*[st.integers(1, 3)] * 3),
    patch=st.tuples(*[st.integers(1, 2)] * 3),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_mask_units_are_hidden_completely_or_not_at_all(grid: Triple, times: Triple, patch: Triple, seed: int) -> None:
    units = random_mask(2, math.prod(grid), 0.6, seeded(seed))
    mask = mask_to_voxels(units, grid, times).flatten(1)
    patches = (grid[0] * times[0], grid[1] * times[1], grid[2] * times[2])
    assert mask.shape == (2, math.prod(patches))
    voxels = mask_to_voxels(mask, patches, patch)
    unit = (times[0] * patch[0], times[1] * patch[1], times[2] * patch[2])
    boxes = patchify(voxels, unit)
    assert torch.equal(boxes, units.unsqueeze(-1).expand_as(boxes))
    assert torch.equal(patchify(voxels, patch).all(-1), mask)
    assert torch.equal(patchify(voxels, patch).any(-1), mask)


@pytest.mark.parametrize("unit", [None, (4, 2, 8)])
@pytest.mark.parametrize("kind", ["random", "block", "body"])
def test_masks_follow_the_settings(kind: str, unit: Triple | None) -> None:
    """Whole units are masked, of the kind and fraction in the settings; by default, a unit is a patch."""
    patch, shape = (2, 2, 4), (8, 8, 16)
    mask_settings = MaskSettings(kind, 0.6, unit, body_fraction=0.7)  # type: ignore[arg-type]
    grid: Triple = (2, 4, 2) if unit else (4, 4, 4)
    crops, seeds = torch.rand(3, 1, *shape, generator=seeded(5)), torch.tensor([1, 7, 2**61])
    body = is_body(crops, unit or patch)
    masks = draw_masks(mask_settings, patch, crops, seeds)
    draw: Any = {
        "random": lambda row, generator: random_mask(1, math.prod(grid), 0.6, generator),
        "block": lambda row, generator: block_mask(1, grid, 0.6, generator),
        "body": lambda row, generator: body_mask(body[row : row + 1], 0.6, 0.7, generator),
    }[kind]
    units = torch.cat([draw(row, seeded(int(seed) + 1)) for row, seed in enumerate(seeds)])
    for row in range(3):  # no crop's mask depends on another's
        alone = draw_masks(mask_settings, patch, crops[row : row + 1], seeds[row : row + 1])
        assert torch.equal(alone, masks[row : row + 1])
    voxels = mask_to_voxels(units, grid, unit or patch)
    assert torch.equal(mask_to_voxels(masks, (4, 4, 4), patch), voxels)


def test_the_body_is_found_at_any_brightness_and_contrast() -> None:
    """A body in noisy air, with shifted and scaled intensities."""
    body = torch.zeros(2, 1, 4, 3, 4, dtype=torch.bool)
    body[0, :, 1:3, :2, 1:] = True
    body[1, :, :2] = True
    voxels = body.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(2, 4)
    crop = voxels * 0.5 + 0.03 * torch.rand(voxels.shape, generator=seeded(0))
    for rescaled in (crop, crop * 1.2 - 0.4, crop - 3):
        assert torch.equal(is_body(rescaled, (4, 4, 2)), body.flatten(1))
    assert not is_body(torch.zeros(1, 2, 8, 8, 8), (4, 4, 4)).any()  # only air


def test_all_channels_are_used_to_find_the_body() -> None:
    crop = torch.zeros(1, 2, 8, 4, 4)
    crop[:, 1, 4:] = 1.0
    assert is_body(crop, (4, 4, 4)).tolist() == [[False, True]]


def test_a_brain_is_body_although_some_of_it_is_darker_than_the_background() -> None:
    """MR after z-scoring over the tissue: the background is 0, the mean of the tissue."""
    body = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    body[..., 1:3, 1:3, 1:3] = True
    inside = body.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    brain = torch.where(inside, torch.randn(1, 2, 16, 16, 16, generator=seeded(0)), torch.zeros(()))
    for rescaled in (brain, brain * 1.3 + 0.2):
        assert torch.equal(is_body(rescaled, (4, 4, 4)), body.flatten(1))

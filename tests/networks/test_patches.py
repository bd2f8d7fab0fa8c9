"""`patchify` and `unpatchify` are exact inverses, in the documented order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.networks.patches import Triple, grid_of, mask_to_voxels, patchify, unpatchify

triples = st.tuples(*[st.integers(1, 4)] * 3)


def numbered(batch: int, channels: int, grid: Triple, patch: Triple) -> torch.Tensor:
    """A volume in which every voxel has a different value."""
    shape = (batch, channels, *(g * p for g, p in zip(grid, patch, strict=True)))
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


@given(grid=triples, patch=triples, batch=st.integers(1, 2), channels=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_patchify_and_unpatchify_are_exact_inverses(grid: Triple, patch: Triple, batch: int, channels: int) -> None:
    volume = numbered(batch, channels, grid, patch)
    patches = patchify(volume, patch)
    n = grid[0] * grid[1] * grid[2]
    assert patches.shape == (batch, n, channels * patch[0] * patch[1] * patch[2])
    assert torch.equal(unpatchify(patches, grid, patch), volume)
    assert torch.equal(patchify(unpatchify(patches, grid, patch), patch), patches)


@given(grid=triples, patch=triples, channels=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_the_order_agrees_with_plain_slicing(grid: Triple, patch: Triple, channels: int) -> None:
    volume = numbered(2, channels, grid, patch)
    px, py, pz = patch
    plain = [
        volume[:, :, i * px : (i + 1) * px, j * py : (j + 1) * py, k * pz : (k + 1) * pz].reshape(2, -1)
        for i in range(grid[0])
        for j in range(grid[1])
        for k in range(grid[2])
    ]
    assert torch.equal(patchify(volume, patch), torch.stack(plain, dim=1))


@given(grid=triples, patch=triples, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_voxels_have_the_mask_of_their_patch(grid: Triple, patch: Triple, seed: int) -> None:
    mask = torch.rand(2, grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(seed)) < 0.5
    voxels = mask_to_voxels(mask, grid, patch)
    assert voxels.shape == (2, 1, *(g * p for g, p in zip(grid, patch, strict=True)))
    assert torch.equal(patchify(voxels, patch), mask.unsqueeze(-1).expand(-1, -1, patch[0] * patch[1] * patch[2]))


@given(grid=triples, patch=triples)
def test_grid_of_counts_patches(grid: Triple, patch: Triple) -> None:
    assert grid_of(tuple(g * p for g, p in zip(grid, patch, strict=True)), patch) == grid


@pytest.mark.parametrize("shape", [(9, 8, 8), (8, 9, 8), (8, 8, 9)])
def test_a_volume_that_is_not_a_multiple_of_the_patch_is_refused(shape: Triple) -> None:
    with pytest.raises(ValueError, match="not a whole number of patches"):
        patchify(torch.zeros(1, 1, *shape), (4, 4, 4))

"""Adapting weights to other patches, channels and grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from voxmim.networks.patches import Triple, patchify, unpatchify
from voxmim.networks.positions import resize_positions
from voxmim.networks.swin import Swin, SwinSettings
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.weights.adapt import Inputs, adapt, pick_channels, resize_patch

GRID: Triple = (2, 3, 4)
NAMES = ("a", "b", "c")
KERNELS = ("embed.weight", "swin.patch_embed.proj.weight")
sizes = st.tuples(*[st.integers(1, 4)] * 3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def embed(kernel: Tensor, patches: Tensor) -> Tensor:
    """Embed patches (B, C, *patch) with a kernel (width, C, *patch)."""
    return torch.einsum("wcxyz,bcxyz->bw", kernel, patches)


def enlarge(patches: Tensor, size: Triple) -> Tensor:
    return functional.interpolate(patches, size=size, mode="trilinear")


def enlarge_each(volume: Tensor, old: Triple, new: Triple) -> Tensor:
    """Enlarge each patch of a volume separately."""
    b, c = volume.shape[:2]
    patches = enlarge(patchify(volume, old).reshape(-1, c, *old), new)
    grid = tuple(n // p for n, p in zip(volume.shape[2:], old, strict=True))
    return unpatchify(patches.reshape(b, -1, c * new[0] * new[1] * new[2]), grid, new)  # type: ignore[arg-type]


@given(old=sizes, extra=st.tuples(*[st.integers(0, 4)] * 3), channels=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_an_enlarged_patch_has_the_embedding_of_the_original_patch(old: Triple, extra: Triple, channels: int) -> None:
    new: Triple = (old[0] + extra[0], old[1] + extra[1], old[2] + extra[2])
    kernel, patches = random(5, channels, *old), random(4, channels, *old, seed=1)
    larger = resize_patch(kernel, new)
    torch.testing.assert_close(embed(larger, enlarge(patches, new)), embed(kernel, patches))
    torch.testing.assert_close(resize_patch(larger, old), kernel)


@given(old=sizes, new=sizes)
@settings(max_examples=15, deadline=None)
def test_a_kernel_made_smaller_gives_the_embedding_of_the_enlarged_patch(old: Triple, new: Triple) -> None:
    """Along axes where the new patch is smaller, it is enlarged for the old kernel."""
    kernel = random(5, 2, *old)
    small: Triple = (min(old[0], new[0]), min(old[1], new[1]), min(old[2], new[2]))
    patches = random(4, 2, *small, seed=1)
    expected = embed(kernel, enlarge(patches, old))
    torch.testing.assert_close(embed(resize_patch(kernel, new), enlarge(patches, new)), expected)


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (3, 2), (2, 4), (4, 4)])
def test_repeated_channels_have_the_same_embedding_for_any_number_of_channels(old: int, new: int) -> None:
    kernel, patch = random(5, old, 2, 3, 4), random(6, 1, 2, 3, 4, seed=1)
    changed = pick_channels(kernel, [None] * new)
    assert changed.shape == (5, new, 2, 3, 4)
    same = [kernel.expand_as(kernel), patch.expand(-1, old, -1, -1, -1)]
    torch.testing.assert_close(embed(changed, patch.expand(-1, new, -1, -1, -1)), embed(*same))
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


def vit_of(inputs: Inputs) -> ViT:
    settings = ViTSettings(inputs.patch, width=24, depth=2, heads=3, position_embedding="learned")
    x, y, z = (g * p for g, p in zip(inputs.grid, inputs.patch, strict=True))
    return ViT(settings, len(inputs.channels), (x, y, z)).eval()


@pytest.mark.parametrize(("channels", "patch"), [(1, (4, 3, 2)), (3, (2, 3, 1)), (2, (5, 6, 2))])
def test_a_vit_with_other_patches_and_channels_gives_the_same_features_of_the_enlarged_volume(
    channels: int, patch: Triple
) -> None:
    torch.manual_seed(0)
    old, new = Inputs(NAMES[:1], (2, 3, 1), GRID), Inputs(NAMES[:channels], patch, GRID)
    one, other = vit_of(old), vit_of(new)
    tensors, changes = adapt(one.state_dict(), old, new, KERNELS)
    assert set(changes) == ({"embed.weight"} if old != new else set())
    other.load_state_dict(tensors)
    volume = random(2, 1, 4, 9, 4).float()
    larger = enlarge_each(volume, old.patch, patch).expand(-1, channels, -1, -1, -1)
    torch.testing.assert_close(other(larger), one(volume), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_swin_with_other_patches_and_channels_gives_the_same_features_of_the_enlarged_volume(channels: int) -> None:
    torch.manual_seed(0)
    old, new = Inputs(NAMES[:1], (2, 2, 2), (4, 4, 4)), Inputs(NAMES[:channels], (4, 4, 4), (4, 4, 4))
    one, other = (
        Swin(SwinSettings(inputs.patch, 12, (1, 1), (2, 2), 2, last_merge=True), len(inputs.channels)).eval()
        for inputs in (old, new)
    )
    tensors, changes = adapt(one.state_dict(), old, new, KERNELS)
    other.load_state_dict(tensors)
    volume = random(1, 1, 8, 8, 8).float()
    larger = enlarge_each(volume, old.patch, new.patch).expand(-1, channels, -1, -1, -1)
    torch.testing.assert_close(other(larger), one(volume), atol=1e-5, rtol=1e-5)
    assert changes["swin.patch_embed.proj.weight"].startswith("patch (2, 2, 2) to (4, 4, 4)")


def test_positions_are_interpolated_from_the_old_grid() -> None:
    old, new = Inputs(NAMES[:1], (2, 2, 2), GRID), Inputs(NAMES[:1], (2, 2, 2), (3, 2, 6))
    state = vit_of(old).state_dict()
    tensors, changes = adapt(state, old, new, KERNELS)
    assert torch.equal(tensors["positions"], resize_positions(state["positions"], GRID, (3, 2, 6)))
    assert changes == {"positions": "grid (2, 3, 4) to (3, 2, 6)"}
    vit_of(new).load_state_dict(tensors)


def test_each_change_is_reported_and_the_other_tensors_are_kept() -> None:
    old, new = Inputs(NAMES[:2], (2, 2, 2), GRID), Inputs(NAMES[:1], (4, 2, 2), (1, 3, 4))
    state = vit_of(old).state_dict()
    tensors, changes = adapt(state, old, new, KERNELS)
    assert changes == {
        "embed.weight": "patch (2, 2, 2) to (4, 2, 2), channels a, b to a",
        "positions": "grid (2, 3, 4) to (1, 3, 4)",
    }
    assert tensors.keys() == state.keys()
    assert {name for name in state if tensors[name] is not state[name]} == set(changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_same_inputs_nothing_changes_and_the_dtype_is_kept(dtype: torch.dtype) -> None:
    same = Inputs(NAMES[:2], (2, 3, 2), GRID)
    state = vit_of(same).to(dtype).state_dict()
    tensors, changes = adapt(state, same, same, KERNELS)
    assert changes == {}
    assert all(tensors[name] is state[name] for name in state)
    resized, _ = adapt(state, same, Inputs(NAMES[:1], (4, 3, 2), (2, 2, 2)), KERNELS)
    assert {tensor.dtype for tensor in resized.values()} == {dtype}


@pytest.mark.parametrize(
    "claimed",
    [Inputs(NAMES[:2], (2, 3, 3), GRID), Inputs(NAMES[:1], (2, 3, 2), GRID), Inputs(NAMES[:2], (2, 3, 2), (5, 3, 4))],
)
def test_weights_that_contradict_the_old_inputs_are_refused(claimed: Inputs) -> None:
    state = vit_of(Inputs(NAMES[:2], (2, 3, 2), GRID)).state_dict()
    with pytest.raises(RuntimeError, match="is invalid for input"):
        adapt(state, claimed, Inputs(NAMES[:2], (4, 3, 2), (1, 1, 1)), KERNELS)


def test_a_convolution_adapts_to_other_channels_and_keeps_its_kernel_size() -> None:
    kernel = random(6, 2, 3, 3, 3)
    old, new = Inputs(NAMES[:2], (4, 4, 4), GRID), Inputs(NAMES[1:3], (8, 4, 4), GRID)
    tensors, changes = adapt({"stem.conv.weight": kernel}, old, new, ["stem.conv.weight"])
    assert torch.equal(tensors["stem.conv.weight"], torch.stack([kernel[:, 1], kernel.mean(1)], 1))
    assert changes == {"stem.conv.weight": "channels a, b to b, c (c: the mean)"}
    with pytest.raises(RuntimeError, match="is invalid for input"):
        adapt({"stem.conv.weight": kernel}, Inputs(NAMES[:1], (4, 4, 4), GRID), new, ["stem.conv.weight"])

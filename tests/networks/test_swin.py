"""The Swin encoder: its feature maps compared with MONAI's, masking, and the reach of its windows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from voxmim.networks.patches import Triple, mask_to_voxels, patchify
from voxmim.networks.swin import Swin, SwinSettings

PATCH: Triple = (2, 2, 2)
GRID: Triple = (6, 10, 4)
N = 240


def make_swin(**changes: object) -> Swin:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"patch": PATCH, "width": 6, "depths": (2, 1), "heads": (2, 3), "window": 4}
    settings |= {"last_merge": True} | changes
    channels = settings.pop("channels", 2)
    return Swin(SwinSettings(**settings), channels).eval()


def some_volume(grid: Triple = GRID, patch: Triple = PATCH, channels: int = 2) -> Tensor:
    shape = (g * p for g, p in zip(grid, patch, strict=True))
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(1))


def some_hidden() -> Tensor:
    return torch.rand(2, N, generator=torch.Generator().manual_seed(2)) < 0.6


def weighted_sum(features: Tensor) -> Tensor:
    """A random projection of the features to a scalar; the plain sum over normalised channels is always zero."""
    return (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(3)).to(features)).sum()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("patch", [(2, 2, 2), (4, 4, 4)])
def test_each_stage_halves_the_grid_and_doubles_the_channels(patch: Triple, channels: int) -> None:
    swin = make_swin(channels=channels, patch=patch, depths=(1, 1, 1, 1), heads=(1, 2, 3, 4))
    volume = some_volume((16, 32, 16), patch, channels)
    with torch.no_grad():
        shapes = [tuple(features.shape) for features in swin.maps(volume)]
    assert shapes == [(2, 6 * 2**i, 16 // 2**i, 32 // 2**i, 16 // 2**i) for i in range(5)]
    assert [shape[1] for shape in shapes] == swin.widths
    assert (swin.embed_width, swin.width) == (swin.widths[0], swin.widths[-1])
    assert swin.stride == tuple(v // d for v, d in zip(volume.shape[2:], shapes[-1][2:], strict=True))


def test_odd_grids_are_halved_and_rounded_up() -> None:
    maps = make_swin(depths=(1, 1, 1), heads=(1, 2, 3)).maps(some_volume((5, 3, 6)))
    assert [tuple(features.shape[2:]) for features in maps] == [(5, 3, 6), (3, 2, 3), (2, 1, 2), (1, 1, 1)]


@pytest.mark.parametrize("patch", [(2, 2, 2), (4, 4, 4)])
@pytest.mark.parametrize("training", [False, True])
def test_the_feature_maps_agree_with_monai(patch: Triple, training: bool) -> None:
    swin = make_swin(patch=patch, depths=(2, 1, 2, 1), heads=(1, 2, 3, 4), window=3, mlp_ratio=2.0, drop_path=0.3)
    torch.manual_seed(5)
    other = SwinTransformer(
        in_chans=2, embed_dim=6, window_size=(3, 3, 3), patch_size=patch, depths=(2, 1, 2, 1), num_heads=(1, 2, 3, 4),
        mlp_ratio=2.0, drop_path_rate=0.3,
    )  # fmt: skip
    swin.load_state_dict({f"swin.{name}": tensor for name, tensor in other.state_dict().items()})
    volume = some_volume((8, 16, 10), patch)
    results = []
    for network in (swin.train(training).maps, other.train(training)):
        torch.manual_seed(7)  # skips the same blocks
        results.append(network(volume))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_patch_merging_keeps_every_patch_in_its_own_cell() -> None:
    swin, grid = make_swin(), (3, 6, 5)
    for block in swin.modules():  # only patch merging is left
        if hasattr(block, "attn") and hasattr(block, "mlp"):
            for part in (block.attn.proj, block.mlp.linear2):
                nn.init.zeros_(part.weight)
                nn.init.zeros_(part.bias)
    places = list(itertools.product(*map(range, grid)))
    blank = some_volume(grid)[:1]
    volume = blank.repeat(len(places), 1, 1, 1, 1)
    for sample, (x, y, z) in enumerate(places):
        volume[sample, :, 2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2] += 1
    changed = (swin(volume) - swin(blank)).abs().amax(1) > 1e-4
    assert changed.nonzero().tolist() == [[i, x // 4, y // 4, z // 4] for i, (x, y, z) in enumerate(places)]


def test_hidden_voxels_have_no_influence() -> None:
    swin, volume, hidden, token = make_swin(), some_volume(), some_hidden(), torch.randn(6)
    changed_volume = volume.masked_fill(mask_to_voxels(hidden, GRID, PATCH), torch.nan)
    assert torch.equal(swin.encode(changed_volume, hidden, token), swin.encode(volume, hidden, token))


def test_visible_patches_get_a_gradient_and_hidden_ones_do_not() -> None:
    swin, volume, hidden = make_swin(), some_volume().requires_grad_(), some_hidden()
    weighted_sum(swin.encode(volume, hidden, torch.randn(6))).backward()
    assert torch.equal(patchify(volume.grad, PATCH).any(-1), ~hidden)


def test_the_token_replaces_the_embedding_of_a_hidden_patch() -> None:
    swin, volume, hidden = make_swin(), some_volume(), some_hidden()
    nn.init.zeros_(swin.swin.patch_embed.proj.weight)  # every embedding is now the bias, as is the token
    with torch.no_grad():
        bias = swin.swin.patch_embed.proj.bias.clone()
        assert torch.equal(swin.encode(volume, hidden, bias), swin(volume))
        assert not torch.allclose(swin.encode(volume, hidden, bias + torch.randn(6)), swin(volume), atol=1e-2)


def test_the_token_gets_a_gradient_only_if_something_is_hidden() -> None:
    swin, volume = make_swin(), some_volume()
    for hidden in (some_hidden(), torch.zeros(2, N, dtype=torch.bool)):
        token = torch.randn(6, requires_grad=True)
        weighted_sum(swin.encode(volume, hidden, token)).backward()
        assert bool(token.grad.all()) == bool(hidden.any())
        assert bool(token.grad.any()) == bool(hidden.any())


@pytest.mark.parametrize("half", [False, True])
def test_without_hidden_patches_the_encoding_is_the_deepest_feature_map(half: bool) -> None:
    swin, volume = make_swin(), some_volume()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        deepest = swin.maps(volume)[-1]
        assert torch.equal(swin(volume), deepest)
        assert torch.equal(swin.encode(volume), deepest)
        assert torch.equal(swin.encode(volume, torch.zeros(2, N, dtype=torch.bool), torch.randn(6)), deepest)


def test_gradient_checkpointing_saves_memory_and_does_not_change_outputs() -> None:
    volume, hidden, token = some_volume(), some_hidden(), torch.randn(6)
    outputs, gradients, saved = [], [], []
    for checkpoint in (False, True):
        swin = make_swin(grad_checkpointing=checkpoint, drop_path=0.5).train()
        sizes: list[int] = []
        torch.manual_seed(4)  # skips the same blocks
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            outputs.append(swin.encode(volume, hidden, token))
        weighted_sum(outputs[-1]).backward()
        gradients.append([parameter.grad for parameter in swin.parameters()])
        saved.append(sum(sizes))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert saved[1] < saved[0] / 2


def reach(cell: int, cells: int, window: int, blocks: int) -> set[int]:
    """The patches along one axis that a merged cell can see after one block, or two with shifted windows."""
    visible = {2 * cell, 2 * cell + 1}
    for shift in (0, window // 2)[:blocks][::-1]:
        if cells > window:
            visible = {p for p in range(cells) if any((p - shift) // window == (q - shift) // window for q in visible)}
        else:
            visible = set(range(cells))
    return visible


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("cell", [(0, 0, 0), (1, 1, 1), (3, 2, 0), (5, 4, 1)])
def test_shifted_windows_connect_neighbours_without_wrapping_around(cell: Triple, blocks: int) -> None:
    """The grid has three, two and a half, and one window along its axes."""
    grid = (12, 10, 4)
    swin = make_swin(depths=(blocks, 1)).double()
    volume = some_volume(grid)[:1].double().requires_grad_()
    weighted_sum(swin.maps(volume)[1][(..., *cell)]).backward()
    size = patchify(volume.grad, PATCH).abs().amax(-1).reshape(grid)
    expected = itertools.product(*(reach(c, n, 4, blocks) for c, n in zip(cell, grid, strict=True)))
    assert {tuple(place) for place in (size > 1e-12 * size.max()).nonzero().tolist()} == set(expected)


def test_a_cell_sees_one_window_and_two_after_the_shift() -> None:
    """The plain reference, for a cell at the border of two windows."""
    assert reach(1, 12, 4, blocks=1) == set(range(4))
    assert reach(1, 12, 4, blocks=2) == set(range(8))


def test_drop_path_skips_blocks_in_training_only() -> None:
    swin, volume = make_swin(drop_path=0.5), some_volume()
    with torch.no_grad():
        assert torch.equal(swin(volume), make_swin()(volume))
        assert len({weighted_sum(swin.train()(volume)).item() for _ in range(20)}) > 1


@pytest.mark.parametrize("shape", [(12, 20, 7), (13, 20, 8)])
def test_a_volume_that_is_not_a_multiple_of_the_patch_is_refused(shape: Triple) -> None:
    swin, volume = make_swin(), torch.randn(1, 2, *shape)
    for encode in (swin, swin.maps):
        with pytest.raises(ValueError, match="not a whole number of patches"):
            encode(volume)


@pytest.mark.parametrize("patch", [(2, 2, 4), (8, 8, 8), (3, 3, 3)])
def test_a_patch_other_than_2_or_4_is_refused(patch: Triple) -> None:
    with pytest.raises(ValueError, match="2 or 4"):
        make_swin(patch=patch)


@pytest.mark.parametrize(("depths", "heads"), [((1, 1, 1), (1, 1)), ((1,), (1,)), ((1,) * 5, (1,) * 5)])
def test_depths_and_heads_must_have_the_same_length_of_two_to_four(
    depths: tuple[int, ...], heads: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="2 to 4 stages"):
        make_swin(depths=depths, heads=heads)


def test_without_the_last_merging_the_output_is_that_of_the_last_stage() -> None:
    merged, plain = make_swin(depths=(1, 1)), make_swin(depths=(1, 1), last_merge=False)
    own = plain.state_dict()
    assert {name for name in merged.state_dict() if name not in own} == {
        f"swin.layers2.0.downsample.{name}" for name in ("reduction.weight", "norm.weight", "norm.bias")
    }
    plain.load_state_dict({name: merged.state_dict()[name] for name in own})
    volume = some_volume()
    (embedded, deepest), (expected, _, _) = plain.maps(volume), merged.maps(volume)
    assert torch.equal(embedded, expected)
    assert deepest.shape == (2, 12, 3, 5, 2)
    assert (plain.widths, plain.width, plain.stride) == ([6, 12], 12, (4, 4, 4))

    last: list[Tensor] = []
    (stage,) = merged.swin.layers2
    stage.downsample.register_forward_pre_hook(lambda _module, inputs: last.append(inputs[0]))
    merged(volume)
    unmerged = nn.functional.layer_norm(last[0], (12,)).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(deepest, unmerged)
    torch.testing.assert_close(plain(volume), unmerged)

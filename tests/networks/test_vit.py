"""The ViT encoder, compared with other implementations of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from voxmim.networks.patches import Triple, mask_to_voxels, patchify, unpatchify
from voxmim.networks.positions import resize_positions
from voxmim.networks.vit import Attention, Block, ViT, ViTSettings, attend, initialise, take

PATCH: Triple = (4, 2, 4)
GRID: Triple = (2, 4, 3)
N = 24


def make_vit(**changes: object) -> ViT:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"patch": PATCH, "width": 24, "depth": 2, "heads": 3} | changes
    channels, (x, y, z) = settings.pop("channels", 2), settings.pop("grid", GRID)
    patch = settings["patch"]
    return ViT(ViTSettings(**settings), channels, (x * patch[0], y * patch[1], z * patch[2])).eval()


def some_volume(grid: Triple = GRID) -> torch.Tensor:
    shape = (g * p for g, p in zip(grid, PATCH, strict=True))
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))


def some_hidden() -> torch.Tensor:
    return torch.rand(2, N, generator=torch.Generator().manual_seed(2)) < 0.6


KINDS = [
    {"position_embedding": "sincos"},
    {"position_embedding": "learned"},
    {"rope": True},
    {"rope": True, "registers": 3},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_tokens_visible_equals_no_mask(kind: dict[str, object]) -> None:
    vit, volume = make_vit(**kind), some_volume()
    everything = torch.arange(N).expand(2, -1)
    torch.testing.assert_close(vit(volume, everything), vit(volume))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_permuted_index_gives_the_tokens_in_that_order(kind: dict[str, object]) -> None:
    vit, volume = make_vit(**kind), some_volume()
    order = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    torch.testing.assert_close(vit(volume, order), take(vit(volume), order))


def test_visible_patches_have_a_gradient_and_hidden_ones_do_not() -> None:
    vit, volume = make_vit(), some_volume()
    visible = torch.tensor([[3, 7, 20], [0, 1, 23]])
    expected = torch.zeros(2, N, dtype=torch.bool).scatter(1, visible, True)
    gradient = torch.autograd.functional.jacobian(lambda v: vit(v, visible).sum((0, 1)), volume).abs().sum(0)
    with_gradient = patchify(gradient, PATCH).sum(-1) > 0
    assert torch.equal(with_gradient, expected)


def test_a_subset_of_tokens_is_encoded_independently_of_the_others() -> None:
    vit, volume = make_vit(), some_volume()
    visible = torch.tensor([[5, 2], [8, 23]])
    rows = []
    for sample, index in enumerate(visible.tolist()):
        patches = patchify(volume, PATCH)[sample, index]
        tokens = (vit.embed(patches) + vit.positions[index])[None]
        for block in vit.blocks:
            tokens = block(tokens)
        rows.append(vit.norm(tokens)[0])
    torch.testing.assert_close(vit(volume, visible), torch.stack(rows))


def test_the_embedding_agrees_with_a_convolution_with_the_patch_as_kernel() -> None:
    vit, volume = make_vit(), some_volume()
    convolution = nn.Conv3d(2, 24, PATCH, PATCH)
    with torch.no_grad():
        convolution.weight.copy_(vit.embed.weight.reshape(24, 2, *PATCH))
        convolution.bias.copy_(vit.embed.bias)
        expected = convolution(volume).flatten(2).transpose(1, 2) + vit.positions
        torch.testing.assert_close(vit.tokens(volume), expected, atol=1e-5, rtol=1e-4)


def test_a_block_agrees_with_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(24, 3, mlp_ratio=2.0)
    other = nn.TransformerEncoderLayer(24, 3, 48, dropout=0.0, activation="gelu", norm_first=True, batch_first=True)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = {
        "norm1": "norm1", "norm2": "norm2", "attention.project": "self_attn.out_proj", "mlp.0": "linear1",
        "mlp.2": "linear2",
    }  # fmt: skip
    state = {f"{theirs}.{part}": block.state_dict()[f"{ours}.{part}"] for ours, theirs in names.items()
             for part in ("weight", "bias")}  # fmt: skip
    state |= {f"self_attn.in_proj_{part}": block.state_dict()[f"attention.qkv.{part}"] for part in ("weight", "bias")}
    other.load_state_dict(state)
    tokens = torch.randn(2, 7, 24)
    for mode in (True, False):
        torch.testing.assert_close(block.train(mode)(tokens), other.train(mode)(tokens), atol=1e-5, rtol=1e-4)


def test_attention_agrees_with_a_slow_softmax() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(12, 3), torch.randn(1, 5, 12)
    q, k, v = attention.qkv(tokens)[0].split(12, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weight = (q[:, part] @ k[:, part].T / 4**0.5).softmax(-1)
        heads.append(weight @ v[:, part])
    torch.testing.assert_close(attention(tokens)[0], attention.project(torch.cat(heads, -1)))


@pytest.mark.parametrize("tokens", [7, 1600])
def test_attention_in_bfloat16_agrees_with_float32_up_to_rounding(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 2, tokens, 8, generator=generator).bfloat16() for _ in range(3)]
    exact = torch.nn.functional.scaled_dot_product_attention(*(part.float() for part in parts))
    torch.testing.assert_close(attend(*parts).float(), exact, atol=0.02, rtol=0.02)


def test_drop_path_skips_samples_in_training_only_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    block = Block(6, 1, drop_path=0.25)
    tokens = torch.randn(1, 2, 6).expand(4000, -1, -1)
    without_drop = block.eval()(tokens)
    block.drop_path = 0.0
    assert torch.equal(without_drop, block.train()(tokens))

    block.drop_path = 0.25
    for parameter in block.attention.project.parameters():  # only the MLP branch is left
        nn.init.zeros_(parameter)
    branch = block.eval()(tokens)[0] - tokens[0]
    change = block.train()(tokens) - tokens
    skipped = change.abs().amax((1, 2)) == 0
    assert 0.2 < skipped.float().mean() < 0.3
    torch.testing.assert_close(change[~skipped], (branch / 0.75).expand_as(change[~skipped]), atol=1e-5, rtol=1e-4)


def test_drop_path_increases_linearly_over_the_blocks() -> None:
    vit = make_vit(depth=3, drop_path=0.4)
    assert [block.drop_path for block in vit.blocks] == pytest.approx([0.0, 0.2, 0.4])
    assert make_vit(depth=1, drop_path=0.4).blocks[0].drop_path == 0.0


def test_rope_attention_depends_on_relative_positions_only() -> None:
    rope, plain = (make_vit(rope=rope, width=36, grid=(4, 1, 1)) for rope in (True, False))
    for network in (rope, plain):
        network.positions.zero_()  # only RoPE encodes positions
    patches = patchify(some_volume((4, 1, 1)), PATCH)

    def encoded(network: ViT, positions: list[int]) -> torch.Tensor:
        """Encode the first two patches of the volume at two other positions."""
        moved = torch.zeros_like(patches)
        moved[:, positions] = patches[:, :2]
        return network(unpatchify(moved, (4, 1, 1), PATCH), torch.tensor([positions]).expand(2, -1))

    torch.testing.assert_close(encoded(rope, [0, 1]), encoded(rope, [2, 3]))
    assert (encoded(rope, [0, 1]) - encoded(rope, [0, 3])).abs().max() > 1e-3
    torch.testing.assert_close(encoded(plain, [0, 1]), encoded(plain, [0, 3]))


def test_a_feature_map_has_every_token_at_its_own_position() -> None:
    vit, volume = make_vit(), some_volume()
    tokens, encoded = vit(volume), vit.encode(volume)
    assert encoded.shape == (2, vit.width, *GRID)
    for number, (i, j, k) in enumerate((i, j, k) for i in range(2) for j in range(4) for k in range(3)):
        assert torch.equal(encoded[:, :, i, j, k], tokens[:, number])
    assert (vit.embed_width, vit.stride) == (24, PATCH)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_token_replaces_the_embedding_of_a_hidden_patch(kind: dict[str, object]) -> None:
    vit, volume, hidden, token = make_vit(**kind), some_volume(), some_hidden(), torch.randn(24)
    nn.init.zeros_(vit.embed.bias)
    zeroed = volume.masked_fill(mask_to_voxels(hidden, GRID, PATCH), 0.0)  # the embedding of zeros is the bias
    bare = vit.encode(zeroed)
    assert torch.equal(vit.encode(volume, hidden, torch.zeros(24)), bare)
    replaced = vit.encode(volume, hidden, token)
    assert not torch.allclose(replaced, bare, atol=1e-2)
    vit.embed.register_forward_hook(lambda _module, _inputs, out: torch.where(hidden.unsqueeze(-1), token, out))
    assert torch.equal(vit.encode(zeroed), replaced)


def test_hidden_voxels_have_no_influence_and_visible_ones_do() -> None:
    vit, hidden, token = make_vit(), some_hidden(), torch.randn(24)
    changed_volume = some_volume().masked_fill(mask_to_voxels(hidden, GRID, PATCH), torch.nan)
    volume = some_volume().requires_grad_()
    encoded = vit.encode(volume, hidden, token)
    assert torch.equal(vit.encode(changed_volume, hidden, token), encoded)
    (encoded * torch.randn_like(encoded)).sum().backward()
    assert torch.equal(patchify(volume.grad, PATCH).any(-1), ~hidden)


def test_the_token_gets_a_gradient_only_if_something_is_hidden() -> None:
    vit = make_vit()
    for hidden in (some_hidden(), torch.zeros(2, N, dtype=torch.bool)):
        token = torch.randn(24, requires_grad=True)
        encoded = vit.encode(some_volume(), hidden, token)
        (encoded * torch.randn_like(encoded)).sum().backward()
        assert bool(token.grad.all()) == bool(token.grad.any()) == bool(hidden.any())


@pytest.mark.parametrize("rope", [False, True])
def test_registers_have_no_position_and_are_removed_from_the_output(rope: bool) -> None:
    vit, volume = make_vit(registers=3, rope=rope), some_volume()
    tokens = torch.cat([vit.tokens(volume), vit.registers.expand(2, -1, -1)], dim=1)  # appended, not prepended
    angles = torch.cat([vit.angles(volume), torch.zeros(1, 3, 4)], dim=1) if rope else None
    expected = []
    for block in vit.blocks:
        tokens = block(tokens, angles)
        expected.append(tokens[:, :N])
    torch.testing.assert_close(vit.hidden_states(volume, [1])[0], expected[0])
    torch.testing.assert_close(vit(volume), vit.norm(expected[1]))
    assert vit.encode(volume).shape == (2, 24, *GRID)


def test_registers_are_learned_and_exist_only_if_set() -> None:
    vit = make_vit(registers=2)
    vit(some_volume()).square().sum().backward()
    assert vit.registers.grad.any(-1).all()
    assert set(vit.state_dict()) - set(make_vit().state_dict()) == {"registers"}


def test_checkpointed_blocks_run_twice_in_training_only_with_the_same_gradients() -> None:
    gradients = []
    for checkpoint in (False, True):
        vit, runs = make_vit(grad_checkpointing=checkpoint, rope=True, registers=2, drop_path=0.5).train(), []
        vit.blocks[0].attention.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        torch.manual_seed(5)
        vit(some_volume()).pow(3).sum().backward()
        gradients.append([parameter.grad for parameter in vit.parameters()])
        assert len(runs) == 1 + checkpoint
        vit.eval()(some_volume()).sum().backward()
        assert len(runs) == 2 + checkpoint
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("rope", [False, True])
def test_hidden_states_are_the_tokens_after_the_given_number_of_blocks(rope: bool) -> None:
    vit, volume = make_vit(depth=3, rope=rope), some_volume()
    tokens, expected = vit.tokens(volume), []
    for block in vit.blocks:
        tokens = block(tokens, vit.angles(volume))
        expected.append(tokens)
    first, repeated, last = vit.hidden_states(volume, [1, 1, 3])
    assert torch.equal(first, expected[0])
    assert torch.equal(repeated, expected[0])
    assert torch.equal(last, vit(volume))


@pytest.mark.parametrize("grid", [(3, 4, 3), (1, 2, 5)])
def test_another_grid_is_encoded_with_resized_positions(grid: Triple) -> None:
    volume = some_volume(grid)
    fixed, learned = make_vit(), make_vit(position_embedding="learned")
    native = make_vit(grid=grid)  # the same weights: fixed positions use no random numbers
    torch.testing.assert_close(fixed(volume), native(volume))
    assert torch.equal(learned.positions_for(grid), resize_positions(learned.positions, GRID, grid))
    assert learned(volume).shape == (2, grid[0] * grid[1] * grid[2], 24)


def test_initialise_sets_zero_biases_and_xavier_weights() -> None:
    linear = nn.Linear(40, 80)
    initialise(linear)
    assert not linear.bias.any()
    bound = (6 / 120) ** 0.5
    assert 0.9 * bound < linear.weight.abs().max() <= bound

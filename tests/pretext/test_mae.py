"""The masked autoencoder: it encodes visible patches only, and only hidden ones count in the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from voxmim.networks.patches import Triple, mask_to_voxels, patchify, unpatchify
from voxmim.networks.positions import sincos_positions
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.pretext.mae import MAE, CrossBlock, MAESettings
from voxmim.pretext.masked import MaskedOutput
from voxmim.pretext.masking import draw_masks, random_mask, visible_index
from voxmim.settings import MaskSettings

PATCH: Triple = (2, 4, 2)
GRID: Triple = (2, 3, 4)
N, VOXELS = 24, 32  # tokens, and voxels of a patch over both channels
SEEDS = torch.tensor([3, 2**61])


DECODERS = pytest.mark.parametrize("cross", [False, True])


def make_mae(rope: bool = False, **changes: object) -> MAE:
    torch.manual_seed(0)
    encoder = ViT(ViTSettings(PATCH, width=24, depth=2, heads=2, rope=rope), 2, (4, 12, 8))
    settings = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2} | changes
    return MAE(encoder, MAESettings(**settings), MaskSettings())  # type: ignore[arg-type]


def run(mae: MAE, volume: torch.Tensor, mask: torch.Tensor, present: torch.Tensor | None = None) -> MaskedOutput:
    """Predict all hidden patches from the visible ones; the mask is bool (B, N), True means hidden."""
    return mae(volume, visible_index(mask), visible_index(~mask), present)


def some_volume(seed: int = 1) -> torch.Tensor:
    shape = (g * p for g, p in zip(GRID, PATCH, strict=True))
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(seed))


def some_mask() -> torch.Tensor:
    return random_mask(2, N, 0.75, torch.Generator().manual_seed(2))


def change_patches(volume: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Replace the voxels of the patches in `where` (B, N)."""
    return torch.where(mask_to_voxels(where, GRID, PATCH), some_volume(9), volume)


def plain_loss(output: MaskedOutput, volume: torch.Tensor, target: str, loss: str) -> float:
    """The mean error of the hidden voxels, by loops over samples, patches and voxels."""
    errors = []
    for sample in range(len(volume)):
        place = 0
        for i in range(GRID[0]):
            for j in range(GRID[1]):
                for k in range(GRID[2]):
                    box = [slice(a * p, a * p + p) for a, p in zip((i, j, k), PATCH, strict=True)]
                    voxels = volume[sample, :, box[0], box[1], box[2]].reshape(-1).tolist()
                    if target == "normalised":
                        mean = sum(voxels) / len(voxels)
                        variance = sum((v - mean) ** 2 for v in voxels) / (len(voxels) - 1)
                        voxels = [(v - mean) / math.sqrt(variance + 1e-6) for v in voxels]
                    if output.mask[sample, place]:
                        pairs = zip(output.prediction[sample, place].tolist(), voxels, strict=True)
                        errors += [plain_error(abs(p - v), loss) for p, v in pairs]
                    place += 1
    return sum(errors) / len(errors)


def plain_error(difference: float, loss: str) -> float:
    if loss == "smooth_l1":
        return difference**2 / 2 if difference < 1 else difference - 0.5
    return difference if loss == "l1" else difference**2


@pytest.mark.parametrize("target", ["raw", "normalised"])
@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
@DECODERS
def test_the_loss_is_the_mean_error_of_hidden_voxels(target: str, loss: str, cross: bool) -> None:
    volume = some_volume()
    output = run(make_mae(target=target, loss=loss, cross_attention=cross), volume, some_mask())
    assert output.prediction.shape == output.target.shape == (2, N, VOXELS)
    assert output.loss.item() == pytest.approx(plain_loss(output, volume, target, loss), rel=1e-5)


@DECODERS
def test_changing_hidden_patches_changes_the_loss_and_not_the_prediction(cross: bool) -> None:
    mae, volume, mask = make_mae(cross_attention=cross), some_volume(), some_mask()
    before, after = run(mae, volume, mask), run(mae, change_patches(volume, mask), mask)
    assert torch.equal(before.prediction, after.prediction)
    assert before.loss.item() != pytest.approx(after.loss.item(), rel=1e-3)


@DECODERS
def test_changing_visible_patches_changes_the_prediction_and_not_the_target(cross: bool) -> None:
    mae, volume, mask = make_mae(cross_attention=cross), some_volume(), some_mask()
    before, after = run(mae, volume, mask), run(mae, change_patches(volume, ~mask), mask)
    assert (before.prediction - after.prediction).abs().amax(-1)[mask].min() > 0
    assert torch.equal(before.target[mask], after.target[mask])


@pytest.mark.parametrize("changes", [{}, {"cross_attention": True}, {"rope": True}], ids=str)
def test_every_parameter_gets_a_gradient(changes: dict[str, object]) -> None:
    mae = make_mae(**changes)
    run(mae, some_volume(), some_mask()).loss.backward()
    assert [name for name, p in mae.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("place", [(0, 0, 3), (1, 0, 0), (0, 2, 0), (1, 1, 2)])
def test_mask_and_loss_have_the_same_order_on_a_non_cubic_grid(place: Triple) -> None:
    """With a prediction of zero, a single bright patch is the only error, and only when it is hidden."""
    mae = make_mae(loss="l1")
    for parameter in mae.head.parameters():
        torch.nn.init.zeros_(parameter)
    volume = torch.zeros(1, 2, *(g * p for g, p in zip(GRID, PATCH, strict=True)))
    box = [slice(a * p, a * p + p) for a, p in zip(place, PATCH, strict=True)]
    volume[0, :, box[0], box[1], box[2]] = 7.0
    grid = torch.zeros(1, *GRID, dtype=torch.bool)
    grid[0, place[0], place[1], place[2]] = True
    bright = grid.reshape(1, N)
    assert run(mae, volume, bright).loss.item() == pytest.approx(7.0)
    assert run(mae, volume, ~bright).loss.item() == 0.0


def test_a_token_is_decoded_at_its_own_position() -> None:
    """Without attention in the decoder, a visible patch depends on its own voxels only, and a hidden one on none."""
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    torch.nn.init.zeros_(mae.decoder[0].attention.project.weight)
    everything = torch.arange(N).expand(2, -1)
    before, after = (mae(v, visible_index(mask), everything) for v in (volume, change_patches(volume, ~mask)))
    changed = (before.prediction - after.prediction).abs().sum(-1) > 0
    assert torch.equal(changed, ~mask)


@pytest.mark.parametrize("rope", [False, True])
def test_a_cross_block_agrees_with_a_slow_softmax(rope: bool) -> None:
    torch.manual_seed(0)
    block, tokens, memory = CrossBlock(12, 3), torch.randn(1, 4, 12), torch.randn(1, 6, 12)
    angles = (torch.randn(1, 4, 2), torch.randn(1, 6, 2)) if rope else None
    queries = block.query(block.norm1(tokens))[0]
    keys, values = block.key_value(memory)[0].split(12, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        q, k = queries[:, part], keys[:, part]
        if angles is not None:
            q, k = (torch.view_as_complex(torch.stack([x[:, :2], x[:, 2:]], dim=-1)) for x in (q, k))
            q, k = q * torch.polar(torch.ones(4, 2), angles[0][0]), k * torch.polar(torch.ones(6, 2), angles[1][0])
        heads.append(((q @ k.mH).real / 4**0.5).softmax(-1) @ values[:, part])
    mixed = tokens + block.project(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(tokens, memory, angles), mixed + block.mlp(block.norm2(mixed)))


def test_cross_attention_decoding_agrees_with_a_slow_patchwise_reference() -> None:
    """Each hidden patch is decoded alone, with torch's attention and the visible tokens in another order."""
    mae, volume, mask = make_mae(cross_attention=True, decoder_depth=2), some_volume(), some_mask()
    for parameter in mae.decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    output, places = run(mae, volume, mask), sincos_positions(GRID, 12)
    for sample in range(2):
        index = (~mask[sample]).nonzero().flatten().flip(0)
        memory = mae.embed(mae.encoder(volume[sample : sample + 1], index[None]))[0] + places[index]
        for place in mask[sample].nonzero().flatten():
            token = (mae.mask_token + places[place])[None]
            for block in mae.decoder:
                attention = nn.MultiheadAttention(12, 2)
                attention.load_state_dict({
                    "in_proj_weight": torch.cat([block.query.weight, block.key_value.weight]),
                    "in_proj_bias": torch.cat([block.query.bias, block.key_value.bias]),
                    "out_proj.weight": block.project.weight, "out_proj.bias": block.project.bias,
                })  # fmt: skip
                token = token + attention(block.norm1(token), memory, memory)[0]
                token = token + block.mlp(block.norm2(token))
            expected = mae.head(mae.norm(token))[0]
            torch.testing.assert_close(output.prediction[sample, place], expected, atol=1e-5, rtol=1e-4)
    assert not output.prediction[~mask].any()


def test_rope_cross_attention_distinguishes_positions_without_other_positional_encodings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the sine-cosine encoding, all hidden patches get the same prediction, unless RoPE distinguishes them."""
    monkeypatch.setattr("voxmim.pretext.mae.sincos_positions", lambda grid, width, device: torch.zeros(N, width))
    mask = some_mask()
    for rope in (False, True):
        prediction = run(make_mae(cross_attention=True, rope=rope), some_volume(), mask).prediction[0, mask[0]]
        assert torch.allclose(prediction, prediction[:1].expand_as(prediction), atol=1e-6) != rope


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 4), (0.5, 9), (0.01, 1)])
def test_in_training_only_a_fraction_of_the_hidden_patches_is_predicted(fraction: float, count: int) -> None:
    mae, volume = make_mae(cross_attention=True, predicted_fraction=fraction, loss="l2"), some_volume()
    output = mae(*mae.inputs(volume, SEEDS))
    predicted = output.prediction.any(-1)
    assert predicted.sum(1).tolist() == [count, count]
    assert not (predicted & ~output.mask).any()
    expected = functional.mse_loss(output.prediction[predicted], output.target[predicted])
    torch.testing.assert_close(output.loss, expected)
    # the same predictions as in evaluation, where all hidden patches are predicted
    complete = mae.eval()(*mae.inputs(volume, SEEDS))
    assert torch.equal(complete.prediction.any(-1), complete.mask)
    torch.testing.assert_close(output.prediction[predicted], complete.prediction[predicted])


def test_masks_and_predicted_patches_depend_only_on_the_seed_of_each_crop() -> None:
    mae, volume = make_mae(cross_attention=True, predicted_fraction=0.25), some_volume()
    state = torch.get_rng_state()
    _, visible, predicted, _ = mae.inputs(volume, SEEDS)
    for row in range(2):
        alone = mae.inputs(volume[row : row + 1], SEEDS[row : row + 1])
        assert torch.equal(alone[1], visible[row : row + 1])
        assert torch.equal(alone[2], predicted[row : row + 1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(visible, visible_index(draw_masks(MaskSettings(), PATCH, volume, SEEDS)))
    assert not torch.equal(visible[0], visible[1])


def test_all_hidden_patches_are_predicted_equally_often() -> None:
    mae, volume = make_mae(cross_attention=True, predicted_fraction=0.25), some_volume()[:1].expand(500, -1, -1, -1, -1)
    _, visible, predicted, _ = mae.inputs(volume, torch.arange(500) * 1000)
    frequency = torch.bincount(predicted.flatten(), minlength=N) / 500
    assert (frequency - 4 / N).abs().max() < 0.08  # the standard deviation of 500 draws is 0.017
    assert not (predicted.unsqueeze(2) == visible.unsqueeze(1)).any()


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_an_invalid_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
        make_mae(cross_attention=True, predicted_fraction=fraction)


def test_a_fraction_without_cross_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="needs cross_attention"):
        make_mae(predicted_fraction=0.5)


@pytest.mark.parametrize(("width", "depth", "heads"), [(384, 1, 6), (512, 8, 8), (12, 3, 3)])
@DECODERS
def test_decoders_can_have_any_width_and_depth(cross: bool, width: int, depth: int, heads: int) -> None:
    mae = make_mae(cross_attention=cross, decoder_width=width, decoder_depth=depth, decoder_heads=heads, rope=True)
    assert run(mae, some_volume(), some_mask()).prediction.shape == (2, N, VOXELS)
    assert (len(mae.decoder), mae.head.in_features) == (depth, width)


@pytest.mark.parametrize("target", ["raw", "normalised"])
@DECODERS
def test_reconstruct_keeps_visible_patches_exactly(target: str, cross: bool) -> None:
    mae, volume, mask = make_mae(target=target, cross_attention=cross), some_volume() * 50 + 10, some_mask()
    output = run(mae, volume, mask)
    picture = mae.reconstruct(volume, output)
    visible = ~mask_to_voxels(mask, GRID, PATCH).expand_as(volume)
    assert torch.equal(picture[visible], volume[visible])
    assert (picture[~visible] - volume[~visible]).abs().max() > 1


def test_reconstruct_returns_raw_predictions_unchanged() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    output = run(mae, volume, mask)
    hidden = mask_to_voxels(mask, GRID, PATCH).expand_as(volume)
    predicted = unpatchify(output.prediction, GRID, PATCH)
    assert torch.equal(mae.reconstruct(volume, output)[hidden], predicted[hidden])


def test_a_perfect_normalised_prediction_reconstructs_the_scan() -> None:
    mae, volume, mask = make_mae(target="normalised"), some_volume() * 50 + 10, some_mask()
    target = mae.target(volume)
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, N), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(-1), torch.ones(2, N), atol=1e-3, rtol=0)
    output = MaskedOutput(torch.tensor(0.0), target, target, mask)
    torch.testing.assert_close(mae.reconstruct(volume, output), volume, atol=1e-4, rtol=1e-5)


def test_a_crop_of_another_grid_is_accepted() -> None:
    mae = make_mae()
    volume = torch.randn(1, 2, 6, 4, 6)
    output = mae(*mae.inputs(volume, SEEDS[:1]))
    assert output.prediction.shape == (1, 9, VOXELS)
    assert torch.equal(output.target, patchify(volume, PATCH))


def test_the_initial_loss_is_close_to_that_of_a_constant_prediction() -> None:
    """An untrained network predicts values close to zero, so that the first steps need not correct large outputs."""
    output = run(make_mae(), some_volume().abs(), some_mask())
    assert output.loss.item() < 1.25 * output.target[output.mask].mean().item()


def test_a_few_steps_on_one_volume_reduce_the_loss() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    optimiser = torch.optim.AdamW(mae.parameters(), lr=3e-3)
    first = run(mae, volume, mask).loss.item()
    for _ in range(80):
        optimiser.zero_grad()
        loss = run(mae, volume, mask).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * first


def slow_present_loss(output: MaskedOutput, present: torch.Tensor, patch: Triple, grid: Triple, loss: str) -> float:
    """The mean error of the hidden voxels of present channels, by loops over samples and channels."""
    hidden = mask_to_voxels(output.mask, grid, patch)[:, 0]
    predicted, target = (unpatchify(values, grid, patch) for values in (output.prediction, output.target))
    errors: list[float] = []
    for sample, channel in present.nonzero().tolist():
        differences = (predicted - target)[sample, channel][hidden[sample]].abs().tolist()
        errors += [plain_error(difference, loss) for difference in differences]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
@DECODERS
def test_absent_channels_do_not_count_in_the_loss(loss: str, cross: bool) -> None:
    mae, volume, mask = make_mae(loss=loss, cross_attention=cross), some_volume(), some_mask()
    present = torch.tensor([[True, False], [False, True]])
    volume = volume * present[..., None, None, None]
    output = run(mae, volume, mask, present=present)
    assert output.loss.item() == pytest.approx(slow_present_loss(output, present, PATCH, GRID, loss), rel=1e-4)
    whole, explicit = run(mae, volume, mask), run(mae, volume, mask, present=torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(whole.loss, explicit.loss)


def test_absent_channels_do_not_count_in_the_statistics_of_a_patch() -> None:
    """The target of the present channel equals that of an encoder with this channel only."""
    mae, volume, mask = make_mae(target="normalised"), some_volume(), some_mask()
    present = torch.tensor([[True, False], [True, False]])
    volume[:, 1] = 0
    output = run(mae, volume, mask, present=present)
    patches = patchify(volume[:, :1], PATCH)
    deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (patches - patches.mean(-1, keepdim=True)) / deviation
    torch.testing.assert_close(output.target[..., : VOXELS // 2], expected)
    restored = mae.reconstruct(volume, output._replace(prediction=output.target))
    torch.testing.assert_close(restored, volume, atol=1e-5, rtol=0)

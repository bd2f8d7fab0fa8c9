"""The masked autoencoder: it sees the visible patches alone, and is judged by the hidden ones alone."""

from __future__ import annotations

import math

import pytest
import torch

from voxmim.networks.patches import Triple, mask_to_voxels, patchify, unpatchify
from voxmim.networks.vit import ViT
from voxmim.pretext.mae import MAE, MAEOutput
from voxmim.pretext.masking import random_mask
from voxmim.recipe import MAESettings

PATCH: Triple = (2, 4, 2)
GRID: Triple = (2, 3, 4)
N, VOXELS = 24, 32  # tokens, and voxels of a patch over both channels


def make_mae(**changes: object) -> MAE:
    torch.manual_seed(0)
    encoder = ViT(channels=2, patch=PATCH, grid=GRID, width=24, depth=2, heads=2)
    sizes = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
    return MAE(encoder, MAESettings(**(sizes | changes)))  # type: ignore[arg-type]


def some_volume(seed: int = 1) -> torch.Tensor:
    shape = (g * p for g, p in zip(GRID, PATCH, strict=True))
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(seed))


def some_mask() -> torch.Tensor:
    return random_mask(2, N, 0.75, torch.Generator().manual_seed(2))


def painted(volume: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The volume with other voxels in the patches that `where` (B, N) names."""
    return torch.where(mask_to_voxels(where, GRID, PATCH), some_volume(9), volume)


def plain_loss(output: MAEOutput, volume: torch.Tensor, target: str, loss: str) -> float:
    """The mean error of the hidden voxels, by loops over samples, places and voxels."""
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
                        errors += [abs(p - v) if loss == "l1" else (p - v) ** 2 for p, v in pairs]
                    place += 1
    return sum(errors) / len(errors)


@pytest.mark.parametrize("target", ["raw", "normalised"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_is_the_mean_over_hidden_voxels(target: str, loss: str) -> None:
    volume = some_volume()
    output = make_mae(target=target, loss=loss)(volume, some_mask())
    assert output.prediction.shape == output.target.shape == (2, N, VOXELS)
    assert output.loss.item() == pytest.approx(plain_loss(output, volume, target, loss), rel=1e-5)


def test_painting_hidden_patches_changes_the_loss_and_not_the_prediction() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    before, after = mae(volume, mask), mae(painted(volume, mask), mask)
    assert torch.equal(before.prediction, after.prediction)
    assert before.loss.item() != pytest.approx(after.loss.item(), rel=1e-3)


def test_painting_visible_patches_changes_the_prediction_and_not_the_target_of_the_loss() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    before, after = mae(volume, mask), mae(painted(volume, ~mask), mask)
    assert (before.prediction - after.prediction).abs().amax(-1)[mask].min() > 0
    assert torch.equal(before.target[mask], after.target[mask])


def test_the_gradient_of_the_loss_reaches_the_predictions_of_hidden_patches_only() -> None:
    mae, mask = make_mae(), some_mask()
    output = mae(some_volume(), mask)
    output.prediction.retain_grad()
    output.loss.backward()
    assert torch.equal(output.prediction.grad.abs().sum(-1) > 0, mask)


def test_every_parameter_gets_a_gradient() -> None:
    mae = make_mae()
    mae(some_volume(), some_mask()).loss.backward()
    assert [name for name, p in mae.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("place", [(0, 0, 3), (1, 0, 0), (0, 2, 0), (1, 1, 2)])
def test_mask_and_loss_have_one_order_on_a_grid_that_is_no_cube(place: Triple) -> None:
    """A single bright patch is the only error of a blind prediction, seen when it is hidden and only then."""
    mae = make_mae(loss="l1")
    for parameter in mae.head.parameters():
        torch.nn.init.zeros_(parameter)
    volume = torch.zeros(1, 2, *(g * p for g, p in zip(GRID, PATCH, strict=True)))
    box = [slice(a * p, a * p + p) for a, p in zip(place, PATCH, strict=True)]
    volume[0, :, box[0], box[1], box[2]] = 7.0
    grid = torch.zeros(1, *GRID, dtype=torch.bool)
    grid[0, place[0], place[1], place[2]] = True
    bright = grid.reshape(1, N)
    assert mae(volume, bright).loss.item() == pytest.approx(7.0)
    assert mae(volume, ~bright).loss.item() == 0.0


def test_a_token_is_decoded_at_its_own_place() -> None:
    """Without attention in the decoder, a visible patch tells of its own place, and a hidden one of the mask token."""
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    torch.nn.init.zeros_(mae.decoder[0].attention.project.weight)
    before, after = mae(volume, mask), mae(painted(volume, ~mask), mask)
    changed = (before.prediction - after.prediction).abs().sum(-1) > 0
    assert torch.equal(changed, ~mask)


def test_a_mask_is_drawn_from_the_generator_where_none_is_given() -> None:
    mae, volume = make_mae(ratio=0.6), some_volume()
    drawn = mae(volume, generator=torch.Generator().manual_seed(3)).mask
    assert torch.equal(drawn, random_mask(2, N, 0.6, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("target", ["raw", "normalised"])
def test_reconstruct_pastes_visible_patches_exactly(target: str) -> None:
    mae, volume, mask = make_mae(target=target), some_volume() * 50 + 10, some_mask()
    output = mae(volume, mask)
    picture = mae.reconstruct(volume, output)
    seen = ~mask_to_voxels(mask, GRID, PATCH).expand_as(volume)
    assert torch.equal(picture[seen], volume[seen])
    assert (picture[~seen] - volume[~seen]).abs().max() > 1


def test_reconstruct_gives_raw_predictions_as_they_are() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    output = mae(volume, mask)
    hidden = mask_to_voxels(mask, GRID, PATCH).expand_as(volume)
    predicted = unpatchify(output.prediction, GRID, PATCH)
    assert torch.equal(mae.reconstruct(volume, output)[hidden], predicted[hidden])


def test_a_perfect_normalised_prediction_is_reconstructed_to_the_scan() -> None:
    mae, volume, mask = make_mae(target="normalised"), some_volume() * 50 + 10, some_mask()
    target = mae.target(volume)
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, N), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(-1), torch.ones(2, N), atol=1e-3, rtol=0)
    output = MAEOutput(torch.tensor(0.0), target, target, mask)
    torch.testing.assert_close(mae.reconstruct(volume, output), volume, atol=1e-4, rtol=1e-5)


def test_a_crop_of_another_grid_is_taken_too() -> None:
    mae = make_mae()
    volume = torch.randn(1, 2, 6, 4, 6)
    output = mae(volume, generator=torch.Generator().manual_seed(0))
    assert output.prediction.shape == (1, 9, VOXELS)
    assert torch.equal(output.target, patchify(volume, PATCH))


def test_a_few_steps_on_one_volume_bring_the_loss_down() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    optimiser = torch.optim.AdamW(mae.parameters(), lr=3e-3)
    first = mae(volume, mask).loss.item()
    for _ in range(40):
        optimiser.zero_grad()
        loss = mae(volume, mask).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * first

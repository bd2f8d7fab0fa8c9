"""The masked autoencoder on a U-Net: hidden voxels never reach the network, and only they count in the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from voxmim.networks.patches import Triple, mask_to_voxels, patchify
from voxmim.networks.unet import ResidualEncoder, UNetSettings
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAESettings
from voxmim.pretext.masked import MaskedOutput
from voxmim.pretext.masking import random_mask
from voxmim.settings import MaskSettings

UNIT: Triple = (4, 2, 6)
GRID: Triple = (2, 4, 2)
N, VOXELS = 16, 96  # mask units, and voxels of a unit over both channels

ERROR = {
    "l1": abs,
    "l2": lambda d: d**2,
    "smooth_l1": lambda d: 0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5,
}


def make_mae(**changes: object) -> DenseMAE:
    torch.manual_seed(0)
    encoder = ResidualEncoder(UNetSettings(width=4, blocks=(1, 1)), channels=2)
    encoder.patch = UNIT
    return DenseMAE(encoder, MAESettings(**changes), MaskSettings())  # type: ignore[arg-type]


def some_volume(seed: int = 1) -> torch.Tensor:
    shape = (g * u for g, u in zip(GRID, UNIT, strict=True))
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(seed)) + 3


def some_mask() -> torch.Tensor:
    return random_mask(2, N, 0.75, torch.Generator().manual_seed(2))


def change_units(volume: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Replace the voxels of the mask units in `where` (B, N)."""
    return torch.where(mask_to_voxels(where, GRID, UNIT), some_volume(9), volume)


def boxes() -> list[tuple[slice, ...]]:
    """The box of each mask unit, in the order of `patchify`."""
    places = [(i, j, k) for i in range(GRID[0]) for j in range(GRID[1]) for k in range(GRID[2])]
    return [tuple(slice(a * u, a * u + u) for a, u in zip(place, UNIT, strict=True)) for place in places]


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
def test_the_loss_is_the_mean_error_of_hidden_voxels_predicted_from_visible_ones(loss: str) -> None:
    mae, volume, mask = make_mae(loss=loss), some_volume(), some_mask()
    output = mae(volume, mask)
    assert output.prediction.shape == output.target.shape == (2, N, VOXELS)
    assert torch.equal(output.mask, mask)

    zeroed = volume.clone()
    for sample in range(2):
        for place, box in enumerate(boxes()):
            if mask[sample, place]:
                zeroed[(sample, slice(None), *box)] = 0
    dense = mae.network(zeroed)
    errors = []
    for sample in range(2):
        for place, box in enumerate(boxes()):
            predicted, expected = (v[(sample, slice(None), *box)].flatten() for v in (dense, volume))
            torch.testing.assert_close(output.prediction[sample, place], predicted)
            torch.testing.assert_close(output.target[sample, place], expected)
            if mask[sample, place]:
                pairs = zip(predicted.tolist(), expected.tolist(), strict=True)
                errors += [ERROR[loss](p - v) for p, v in pairs]
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_changing_hidden_units_changes_the_loss_and_not_the_prediction() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    before, after = mae(volume, mask), mae(change_units(volume, mask), mask)
    assert torch.equal(before.prediction, after.prediction)
    assert before.loss.item() != pytest.approx(after.loss.item(), rel=1e-3)


def test_nan_in_hidden_voxels_does_not_reach_the_prediction() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    with_nan = volume.masked_fill(mask_to_voxels(mask, GRID, UNIT), torch.nan)
    assert torch.equal(mae(volume, mask).prediction, mae(with_nan, mask).prediction)


def test_changing_visible_units_changes_the_prediction_and_not_the_target() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    before, after = mae(volume, mask), mae(change_units(volume, ~mask), mask)
    assert (before.prediction - after.prediction).abs().amax(-1)[mask].min() > 0
    assert torch.equal(before.target[mask], after.target[mask])


def test_only_predictions_of_hidden_units_have_a_gradient() -> None:
    mae, mask = make_mae(), some_mask()
    output = mae(some_volume(), mask)
    output.prediction.retain_grad()
    output.loss.backward()
    assert torch.equal(output.prediction.grad.abs().sum(-1) > 0, mask)


def test_every_parameter_of_encoder_and_decoder_gets_a_gradient() -> None:
    mae = make_mae()
    mae(some_volume(), some_mask()).loss.backward()
    assert [name for name, p in mae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    mae, volume, mask = make_mae(), some_volume(), some_mask()
    with torch.autocast("cpu", torch.bfloat16):
        output = mae(volume.bfloat16(), mask)
    assert {part.dtype for part in output[:3]} == {torch.float32}
    assert output.loss.item() == pytest.approx(mae(volume, mask).loss.item(), rel=0.05)


def test_reconstruct_combines_visible_and_predicted_voxels() -> None:
    mae, volume, mask = make_mae(), some_volume() * 50, some_mask()
    output = mae(volume, mask)
    hidden = mask_to_voxels(mask, GRID, UNIT).expand_as(volume)
    dense = mae.network(volume.masked_fill(hidden, 0))
    picture = mae.reconstruct(volume, output)
    assert torch.equal(picture[~hidden], volume[~hidden])
    assert torch.equal(picture[hidden], dense[hidden])
    perfect = MaskedOutput(output.loss, output.target, output.target, mask)
    assert torch.equal(mae.reconstruct(volume, perfect), volume)


def test_a_crop_of_another_grid_is_accepted_and_one_that_does_not_fit_is_refused() -> None:
    mae, volume = make_mae(), torch.randn(1, 2, 4, 4, 18)
    output = mae(*mae.inputs(volume, torch.tensor([0])))
    assert output.prediction.shape == (1, 6, VOXELS)
    assert torch.equal(output.target, patchify(volume, UNIT))
    with pytest.raises(ValueError, match=r"not a whole number of patches of \(4, 2, 6\)"):
        mae(torch.randn(1, 2, 4, 4, 16), torch.zeros(1, 5, dtype=torch.bool))


def test_a_mask_unit_may_be_smaller_than_a_bottleneck_cell() -> None:
    encoder = ResidualEncoder(UNetSettings(width=4, blocks=(1, 1, 1)))
    mae, volume = DenseMAE(encoder, MAESettings(), MaskSettings(unit=(2, 2, 4))), torch.randn(1, 1, 8, 8, 8)
    output = mae(*mae.inputs(volume, torch.tensor([0])))
    assert encoder.patch == (4, 4, 4)
    assert torch.equal(output.target, patchify(volume, (2, 2, 4)))
    assert output.mask.shape == (1, 32)
    hidden = mask_to_voxels(output.mask, (4, 4, 2), (2, 2, 4))
    assert torch.equal(mae.reconstruct(volume, output)[~hidden], volume[~hidden])


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_after_a_few_steps_predictions_for_unseen_volumes_are_better_than_their_mean(loss: str) -> None:
    """Hidden voxels of smooth volumes can be predicted from the visible ones, also in unseen volumes."""
    draw = torch.Generator().manual_seed(0)

    def smooth() -> torch.Tensor:
        return functional.interpolate(torch.randn(4, 1, 4, 4, 4, generator=draw), size=16, mode="trilinear")

    torch.manual_seed(0)
    encoder = ResidualEncoder(UNetSettings(width=8, blocks=(1, 1, 1)))
    mae = DenseMAE(encoder, MAESettings(loss=loss), MaskSettings(ratio=0.5))  # type: ignore[arg-type]
    unseen = torch.cat([smooth() for _ in range(4)])
    mask = random_mask(len(unseen), 64, 0.5, draw)
    hidden = patchify(unseen, (4, 4, 4))[mask]
    deviation = hidden - hidden.mean()
    error_of_mean = (deviation.abs() if loss == "l1" else deviation.square()).mean().item()

    optimiser = torch.optim.AdamW(mae.parameters(), lr=1e-2)
    for step in range(40):
        optimiser.zero_grad()
        mae(*mae.inputs(smooth(), 4 * step + torch.arange(4))).loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert mae(unseen, mask).loss.item() < 0.8 * error_of_mean


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
def test_absent_channels_do_not_count_in_the_loss(loss: str) -> None:
    mae, volume, mask = make_mae(loss=loss), some_volume(), some_mask()
    present = torch.tensor([[False, True], [True, True]])
    output = mae(volume, mask, present=present)
    errors = []
    for sample, channel in present.nonzero().tolist():
        for place, box in enumerate(boxes()):
            if mask[sample, place]:
                predicted = output.prediction[sample, place].reshape(2, *UNIT)[channel].flatten()
                differences = predicted - volume[(sample, channel, *box)].flatten()
                errors += [ERROR[loss](difference) for difference in differences.tolist()]
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)

"""SimMIM: tokens replace hidden patches, and only hidden patches count in the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from voxmim.networks.patches import Triple, mask_to_voxels, patchify, unpatchify
from voxmim.pretext.masked import MaskedOutput
from voxmim.pretext.masking import random_mask
from voxmim.pretext.simmim import SimMIM, SimMIMSettings
from voxmim.settings import MaskSettings

CHANNELS = 2
PATCH: Triple = (2, 1, 2)
STRIDE: Triple = (4, 3, 2)
UNIT: Triple = (4, 3, 4)
GRID: Triple = (4, 6, 4)  # patches
SHAPE: Triple = (8, 6, 8)  # voxels
N, VOXELS = 96, 8  # patches, and voxels of a patch over both channels

ERROR = {
    "l1": abs,
    "l2": lambda d: d**2,
    "smooth_l1": lambda d: 0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5,
}


class Mixer(nn.Module):
    """A small encoder: embed patches, merge them into cells, and add the mean of all cells to each."""

    channels, patch, embed_width, width, stride = CHANNELS, PATCH, 5, 7, STRIDE

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(VOXELS, self.embed_width)
        merged = (2, 3, 1)  # patches per cell
        self.merge = nn.Conv3d(self.embed_width, self.width, merged, merged)

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        tokens = self.embed(patchify(volume, self.patch))
        if hidden is not None:
            tokens = torch.where(hidden.unsqueeze(-1), token, tokens)
        grid = [n // p for n, p in zip(volume.shape[2:], self.patch, strict=True)]
        cells = self.merge(tokens.transpose(1, 2).reshape(len(volume), -1, *grid)).tanh()
        return cells + cells.mean((2, 3, 4), keepdim=True)


class Copier(nn.Module):
    """An encoder whose cells contain their own voxels, in the order in which the head predicts them."""

    channels, patch, embed_width, stride = CHANNELS, PATCH, 1, STRIDE
    width = CHANNELS * math.prod(STRIDE)

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        (sx, sy, sz), (x, y, z) = STRIDE, volume.shape[2:]
        cells = torch.empty(len(volume), self.width, x // sx, y // sy, z // sz)
        for channel in range(self.width):
            c, within = divmod(channel, sx * sy * sz)
            i, j, k = within // (sy * sz), within // sz % sy, within % sz
            cells[:, channel] = volume[:, c, i::sx, j::sy, k::sz]
        return cells


def make_simmim(loss: str = "l1", ratio: float = 0.6) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(Mixer(), SimMIMSettings(loss), MaskSettings(ratio=ratio, unit=UNIT))  # type: ignore[arg-type]


def some_volume(seed: int = 1) -> Tensor:
    return torch.randn(2, CHANNELS, *SHAPE, generator=torch.Generator().manual_seed(seed))


def some_mask() -> Tensor:
    return random_mask(2, N, 0.6, torch.Generator().manual_seed(2))


def change_patches(volume: Tensor, where: Tensor) -> Tensor:
    """Replace the voxels of the patches in `where` (B, N)."""
    return torch.where(mask_to_voxels(where, GRID, PATCH), some_volume(9), volume)


def plain_loss(output: MaskedOutput, volume: Tensor, loss: str) -> float:
    """The mean error of the hidden voxels, by loops over samples, patches and voxels."""
    errors = []
    for sample in range(len(volume)):
        place = 0
        for i in range(GRID[0]):
            for j in range(GRID[1]):
                for k in range(GRID[2]):
                    if output.mask[sample, place]:
                        box = [slice(a * p, a * p + p) for a, p in zip((i, j, k), PATCH, strict=True)]
                        voxels = volume[sample, :, box[0], box[1], box[2]].reshape(-1).tolist()
                        pairs = zip(output.prediction[sample, place].tolist(), voxels, strict=True)
                        errors += [ERROR[loss](p - v) for p, v in pairs]
                    place += 1
    return sum(errors) / len(errors)


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
def test_the_loss_is_the_mean_error_of_hidden_voxels(loss: str) -> None:
    volume = some_volume()
    output = make_simmim(loss)(volume, some_mask())
    assert output.prediction.shape == output.target.shape == (2, N, VOXELS)
    assert torch.equal(output.mask, some_mask())
    assert output.loss.item() == pytest.approx(plain_loss(output, volume, loss), rel=1e-5)


def test_only_predictions_of_hidden_patches_have_a_gradient() -> None:
    output = make_simmim()(some_volume(), some_mask())
    output.prediction.retain_grad()
    output.loss.backward()
    assert torch.equal(output.prediction.grad.abs().sum(-1) > 0, some_mask())


def test_every_parameter_and_the_token_get_a_gradient() -> None:
    simmim = make_simmim()
    simmim(some_volume(), some_mask()).loss.backward()
    assert simmim.token.grad is not None
    assert [name for name, p in simmim.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_changing_hidden_patches_changes_the_loss_and_not_the_prediction() -> None:
    simmim, volume, mask = make_simmim(), some_volume(), some_mask()
    before, after = simmim(volume, mask), simmim(change_patches(volume, mask), mask)
    assert torch.equal(before.prediction, after.prediction)
    assert before.loss.item() != pytest.approx(after.loss.item(), rel=1e-3)


def test_changing_visible_patches_changes_the_prediction_and_not_the_target() -> None:
    simmim, volume, mask = make_simmim(), some_volume(), some_mask()
    before, after = simmim(volume, mask), simmim(change_patches(volume, ~mask), mask)
    assert (before.prediction - after.prediction).abs().amax(-1)[mask].min() > 0
    assert torch.equal(before.target[mask], after.target[mask])


def test_the_head_predicts_each_voxel_at_its_position() -> None:
    """An encoder that copies voxels and an identity head return the volume, in the order of the patches."""
    simmim, volume = SimMIM(Copier(), SimMIMSettings(), MaskSettings()), some_volume()
    nn.init.eye_(simmim.head.weight)
    nn.init.zeros_(simmim.head.bias)
    output = simmim(volume, some_mask())
    assert torch.equal(unpatchify(output.prediction, GRID, PATCH), volume)
    assert torch.equal(output.prediction, patchify(volume, PATCH))
    assert output.loss.item() == 0.0


def test_the_head_is_a_linear_layer_on_each_cell() -> None:
    simmim, volume, mask = make_simmim(), some_volume(), some_mask()
    encoded = simmim.encoder.encode(volume, mask, simmim.token)
    weight = simmim.head.weight.reshape(-1, Mixer.width, 1, 1, 1)
    expected = nn.functional.conv3d(encoded, weight, simmim.head.bias).flatten(2).transpose(1, 2)
    predicted = unpatchify(simmim(volume, mask).prediction, GRID, PATCH)
    torch.testing.assert_close(patchify(predicted, STRIDE), expected)


def test_masks_of_whole_units_are_drawn_from_the_seeds() -> None:
    simmim, volume, seeds = make_simmim(ratio=0.4), some_volume(), torch.tensor([3, 4])
    drawn = simmim(*simmim.inputs(volume, seeds)).mask
    units = torch.cat([random_mask(1, 8, 0.4, torch.Generator().manual_seed(seed + 1)) for seed in (3, 4)])
    assert torch.equal(drawn, mask_to_voxels(units, (2, 2, 2), (2, 3, 2)).flatten(1))
    assert drawn.sum(1).tolist() == [3 * 12, 3 * 12]  # three units of twelve patches


def test_reconstruct_combines_visible_patches_and_predictions() -> None:
    simmim, volume, mask = make_simmim(), some_volume(), some_mask()
    output = simmim(volume, mask)
    picture = simmim.reconstruct(volume, output)
    hidden = mask_to_voxels(mask, GRID, PATCH).expand_as(volume)
    assert torch.equal(picture[~hidden], volume[~hidden])
    assert torch.equal(picture[hidden], unpatchify(output.prediction, GRID, PATCH)[hidden])


def test_a_few_steps_on_one_volume_reduce_the_loss() -> None:
    simmim, volume, mask = make_simmim(), some_volume(), some_mask()
    optimiser = torch.optim.AdamW(simmim.parameters(), lr=1e-2)
    first = simmim(volume, mask).loss.item()
    for _ in range(60):
        optimiser.zero_grad()
        loss = simmim(volume, mask).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * first


def test_voxels_of_cells_beyond_the_volume_are_left_out() -> None:
    """Cells of eight voxels on a volume of twelve: predictions are as for sixteen, without the last four."""

    class Padded(Copier):
        patch, stride, width = (4, 4, 4), (8, 4, 4), CHANNELS * 8 * 4 * 4

        def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
            padded = nn.functional.pad(volume, (0, 0, 0, 0, 0, -volume.shape[2] % 8))
            cells = patchify(padded, self.stride).transpose(1, 2)
            return cells.reshape(len(volume), -1, *(n // s for n, s in zip(padded.shape[2:], self.stride, strict=True)))

    simmim, volume = SimMIM(Padded(), SimMIMSettings(), MaskSettings()), torch.randn(2, CHANNELS, 12, 8, 4)
    nn.init.eye_(simmim.head.weight)
    nn.init.zeros_(simmim.head.bias)
    output = simmim(volume, random_mask(2, 6, 0.5, torch.Generator().manual_seed(0)))
    assert torch.equal(output.prediction, patchify(volume, (4, 4, 4)))


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
def test_absent_channels_do_not_count_in_the_loss(loss: str) -> None:
    simmim, volume, mask = make_simmim(loss), some_volume(), random_mask(2, N, 0.5, torch.Generator().manual_seed(4))
    present = torch.tensor([[True, False], [True, True]])
    output = simmim(volume, mask, present=present)
    hidden = mask_to_voxels(mask, GRID, PATCH)[:, 0]
    predicted = unpatchify(output.prediction, GRID, PATCH)
    errors = []
    for sample, channel in present.nonzero().tolist():
        differences = (predicted - volume)[sample, channel][hidden[sample]].tolist()
        errors += [ERROR[loss](difference) for difference in differences]
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)

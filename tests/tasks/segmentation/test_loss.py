"""The loss of labels agrees with MONAI, and the loss of regions with a plain reference."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from voxmim.tasks.segmentation.loss import deep_loss, loss_name, make_criterion
from voxmim.tasks.segmentation.structures import Structures

LABELS = Structures({1: "bone", 2: "fat"}, values=(0, 1, 2))
REGIONS = Structures({1: "NCR", 2: "ED", 4: "ET"}, {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)})


def some_case(values: list[int], outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    label = torch.tensor(values)[torch.randint(0, len(values), (2, 1, 4, 3, 2), generator=generator)]
    return 3 * torch.randn(2, outputs, 4, 3, 2, generator=generator), label


def slow_loss(logits: torch.Tensor, label: torch.Tensor) -> float:
    """Mean over regions of 1 - Dice over the batch, and the mean binary cross-entropy of all voxels and regions."""
    dices, entropies = [], []
    for region, values in enumerate(REGIONS.regions.values()):
        overlap = predicted = true = 0.0
        for logit, value in zip(logits[:, region].flatten().tolist(), label.flatten().tolist(), strict=True):
            p, inside = 1 / (1 + math.exp(-logit)), float(value in values)
            overlap, predicted, true = overlap + p * inside, predicted + p, true + inside
            entropies.append(-math.log(p if inside else 1 - p))
        dices.append(1 - 2 * overlap / (predicted + true))
    return sum(dices) / len(dices) + sum(entropies) / len(entropies)


@pytest.mark.parametrize("values", [[0, 1, 2, 4], [0, 2], [4]])
def test_the_loss_of_regions_agrees_with_a_plain_reference(values: list[int]) -> None:
    logits, label = some_case(values, 3)
    loss = make_criterion(REGIONS)(logits, label)
    assert float(loss) == pytest.approx(slow_loss(logits, label), rel=1e-4)


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 2], [0]])
def test_the_loss_of_labels_agrees_with_monai(values: list[int]) -> None:
    logits, label = some_case(values, 3)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    torch.testing.assert_close(make_criterion(LABELS)(logits, label), theirs(logits, label))


def test_foreground_weight_multiplies_the_cross_entropy_of_labelled_voxels() -> None:
    logits, label = some_case([0, 1, 2], 3)
    log = torch.log_softmax(logits, 1).gather(1, label)
    extra = -(7 * log[label > 0]).sum() / label.numel()
    criterion = make_criterion(LABELS)
    torch.testing.assert_close(criterion(logits, label, 8.0) - criterion(logits, label), extra)


@pytest.mark.parametrize(("structures", "values"), [(LABELS, [0, 1, 2]), (REGIONS, [0, 1, 2, 4])])
def test_unannotated_voxels_do_not_count_in_the_loss(structures: Structures, values: list[int]) -> None:
    logits, label = some_case(values, 3)
    known = torch.zeros_like(label, dtype=torch.bool)
    known[:, :, :2] = True
    logits.requires_grad_(True)
    criterion = make_criterion(structures)
    loss = criterion(logits, label, known=known)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 2:].any()
    assert logits.grad[:, :, :2].all()
    torch.testing.assert_close(loss, criterion(logits[:, :, :2], label[:, :, :2]))


def test_an_unannotated_batch_gives_no_gradient() -> None:
    logits, label = some_case([0, 1, 2], 3)
    logits.requires_grad_(True)
    make_criterion(LABELS)(logits, label, known=torch.zeros_like(label, dtype=torch.bool)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_overlapping_regions_can_be_learned() -> None:
    logits, label = some_case([0, 1, 2, 4], 3)
    logits.requires_grad_(True)
    criterion, optimiser = make_criterion(REGIONS), torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        optimiser.zero_grad()
        criterion(logits, label).backward()
        optimiser.step()
    assert torch.equal(REGIONS.masks(label) > 0.5, logits > 0)
    assert criterion(logits, label).item() < 0.05


def test_the_loss_is_described_in_words() -> None:
    assert loss_name(LABELS) == "Dice + cross-entropy"
    assert loss_name(REGIONS) == "Dice + binary cross-entropy"


def test_deep_supervision_halves_the_weight_of_each_coarser_level() -> None:
    criterion = make_criterion(LABELS)
    label = torch.arange(3).repeat_interleave(2)[:, None, None].expand(1, 1, 6, 4, 4)
    fine, coarse = torch.randn(1, 3, 6, 4, 4), torch.randn(1, 3, 3, 2, 2)
    nearest = torch.arange(3)[:, None, None].expand(1, 1, 3, 2, 2)
    expected = (criterion(fine, label) + 0.5 * criterion(coarse, nearest)) / 1.5
    torch.testing.assert_close(deep_loss(criterion, [fine, coarse], label), expected)
    torch.testing.assert_close(deep_loss(criterion, [fine], label), criterion(fine, label))

"""Segmentation losses: overlap and voxel-wise error, of labels or of regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from voxmim.tasks.segmentation.structures import Structures

Criterion = Callable[[Tensor, Tensor], Tensor]


def make_criterion(structures: Structures) -> Criterion:
    """The loss of logits (B, K, X, Y, Z) float32 against label values (B, 1, X, Y, Z).

    For labels, Dice and cross-entropy after a softmax, without background in the Dice; for regions, Dice and binary
    cross-entropy after a sigmoid, each region against its own mask. Dice counts over the batch (of one process, and of
    one part of it under gradient accumulation), so that crops without a structure do not count as cases of their own.
    """
    from monai.losses import DiceCELoss, DiceLoss  # MONAI takes seconds to import

    if not structures.regions:
        dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        return lambda logits, label: dice_ce(logits, structures.targets(label))
    dice = DiceLoss(sigmoid=True, batch=True)

    def of_regions(logits: Tensor, label: Tensor) -> Tensor:
        masks = structures.masks(label)
        return dice(logits, masks) + functional.binary_cross_entropy_with_logits(logits, masks)

    return of_regions


def deep_loss(criterion: Criterion, levels: Sequence[Tensor], label: Tensor) -> Tensor:
    """The mean loss of logits of several levels, each weighing half of the next finer one (arXiv 1809.10486).

    Args:
        criterion: the loss of one level.
        levels: logits (B, K, X, Y, Z) of each level, the finest first.
        label: values (B, 1, X, Y, Z) of the finest level; coarser ones are its nearest voxels.
    """
    total, weights = levels[0].new_zeros(()), [0.5**level for level in range(len(levels))]
    for weight, logits in zip(weights, levels, strict=True):
        same = logits.shape[2:] == label.shape[2:]
        nearest = label if same else functional.interpolate(label.float(), logits.shape[2:], mode="nearest-exact")
        total = total + weight * criterion(logits, nearest.to(label.dtype))
    return total / sum(weights)


def loss_name(structures: Structures) -> str:
    """The loss as the axis of a plot names it."""
    return "Dice + binary cross-entropy" if structures.regions else "Dice + cross-entropy"

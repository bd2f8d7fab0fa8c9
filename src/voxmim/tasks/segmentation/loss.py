"""Segmentation losses: Dice and cross-entropy of labels or regions, on the voxels that are annotated."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.tasks.segmentation.structures import Structures

Criterion = Callable[..., Tensor]
_SMOOTH = 1e-5  # added to numerator and denominator of the Dice, as in MONAI


def make_criterion(structures: Structures) -> Criterion:
    """The loss of logits (B, K, X, Y, Z) float32 against label values (B, 1, X, Y, Z): Dice + cross-entropy.

    Labels use a softmax, and a Dice without background; regions a sigmoid and binary cross-entropy, each against its
    own mask. The Dice is computed over the whole batch (of one process and one step of gradient accumulation), so that
    crops without a structure do not count as cases of their own.

    The criterion takes two more arguments: `foreground_weight` multiplies the cross-entropy of labelled voxels; `known`
    is a bool mask (B, 1, X, Y, Z), or (B, K, X, Y, Z) for regions, outside which voxels have no loss and no gradient.
    """
    regions = bool(structures.regions)

    def criterion(logits: Tensor, label: Tensor, foreground_weight: float = 1.0, known: Tensor | None = None) -> Tensor:
        if regions:
            truth = structures.masks(label)
            error = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            labelled, scored = truth > 0, slice(None)
        else:
            target = structures.targets(label)
            error = functional.cross_entropy(logits, target[:, 0], reduction="none")[:, None]
            outputs = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1, 1)
            truth = (target == outputs).to(logits.dtype)  # functional.one_hot would need int64
            labelled, scored = target > 0, slice(1, None)
        if foreground_weight != 1:
            error = error * torch.where(labelled, foreground_weight, 1.0)
        predicted = structures.activate(logits)[:, scored]
        return _mean(error, known) + soft_dice_loss(predicted, truth[:, scored], known)

    return criterion


def soft_dice_loss(predicted: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """1 - Dice of probabilities and masks (B, K, X, Y, Z), over the batch, averaged over K (arXiv 1606.04797).

    Voxels outside the mask `known` (see `make_criterion`) are left out.
    """
    if known is not None:
        predicted, truth = predicted * known, truth * known
    axes = (0, 2, 3, 4)
    overlap, total = (predicted * truth).sum(axes), predicted.sum(axes) + truth.sum(axes)
    return (1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)).mean()


def _mean(error: Tensor, known: Tensor | None) -> Tensor:
    if known is None:
        return error.mean()
    known = known.expand_as(error)
    return error.where(known, 0).sum() / known.sum().clamp(min=1)


def deep_loss(
    criterion: Criterion,
    levels: Sequence[Tensor],
    label: Tensor,
    foreground_weight: float = 1.0,
    known: Tensor | None = None,
) -> Tensor:
    """The weighted mean of the criterion over the levels of deep supervision.

    Each level weighs half of the next finer one (arXiv 1809.10486).

    Args:
        criterion: see `make_criterion`.
        levels: logits (B, K, X, Y, Z) of each level, the finest first.
        label: label values (B, 1, X, Y, Z) of the finest level, resampled to the coarser ones (nearest neighbour).
        foreground_weight: see `make_criterion`.
        known: see `make_criterion`; of the finest level, too.
    """
    total, weights = levels[0].new_zeros(()), [0.5**level for level in range(len(levels))]
    for weight, logits in zip(weights, levels, strict=True):
        mask = None if known is None else _nearest(known, logits)
        total = total + weight * criterion(logits, _nearest(label, logits), foreground_weight, mask)
    return total / sum(weights)


def _nearest(volume: Tensor, logits: Tensor) -> Tensor:
    if volume.shape[2:] == logits.shape[2:]:
        return volume
    return functional.interpolate(volume.float(), logits.shape[2:], mode="nearest-exact").to(volume.dtype)


def compare_known(
    structures: Structures, levels: Sequence[Tensor], label: Tensor, annotated: Sequence[Sequence[int] | None]
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """The arguments of `deep_loss` for partly annotated crops.

    Args:
        structures: the labels or regions.
        levels: logits (B, K, X, Y, Z) of each level of the decoder.
        label: label values (B, 1, X, Y, Z).
        annotated: for each crop, the label values that were annotated in its case, or None for all.

    Returns:
        the logits, the label values, and the mask of known voxels, (B, 1, X, Y, Z) or for regions (B, K, X, Y, Z); None
        if all are known.
    """
    known = None if structures.ignore is None else label != structures.ignore
    if all(values is None for values in annotated):
        return list(levels), label, known
    unknown = torch.tensor([structures.unknown(values) for values in annotated], device=label.device)
    if structures.regions:
        known = torch.ones_like(label, dtype=torch.bool) if known is None else known
        return list(levels), label, known & ~unknown[..., None, None, None]
    # A label value that is not listed as annotated in its case is treated as background.
    table = torch.tensor([[values is None or value in values for value in range(256)] for values in annotated])
    is_annotated = table.to(label.device).gather(1, label.flatten(1)).view_as(label)
    return [merge_unknown(logits, unknown) for logits in levels], label * is_annotated, known


def merge_unknown(logits: Tensor, unknown: Tensor) -> Tensor:
    """Merge the outputs that were not annotated in a crop's case into its background.

    Background in such a crop may be any of these labels, so only the sum of their probabilities is compared with it
    (arXiv 2007.03868). Logits are (B, K, X, Y, Z), background first; `unknown` (B, K) bool, false for background.
    """
    hidden = unknown[:, 1:, None, None, None]
    background, labels = logits[:, :1], logits[:, 1:]
    merged = torch.cat([background, labels.masked_fill(~hidden, -torch.inf)], dim=1).logsumexp(dim=1, keepdim=True)
    return torch.cat([merged, labels.masked_fill(hidden, -torch.inf)], dim=1)


def loss_name(structures: Structures) -> str:
    """The axis label of the loss plot."""
    return "Dice + binary cross-entropy" if structures.regions else "Dice + cross-entropy"

"""Segmentation losses: overlap and voxel-wise error, of labels or of regions, where they are known."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.tasks.segmentation.structures import Structures

Criterion = Callable[..., Tensor]
_SMOOTH = 1e-5  # in both parts of the Dice's fraction, as in MONAI


def make_criterion(structures: Structures) -> Criterion:
    """The loss of logits (B, K, X, Y, Z) float32 against label values (B, 1, X, Y, Z): Dice and cross-entropy.

    For labels after a softmax, without background in the Dice; for regions binary and after a sigmoid, each region
    against its own mask. Dice counts over the batch (of one process, and of one part of it under gradient
    accumulation), so that crops without a structure do not count as cases of their own.

    The criterion takes two more arguments. `foreground_weight` multiplies the cross-entropy of labelled voxels. `known`
    is a bool (B, 1, X, Y, Z), of regions also (B, K, X, Y, Z): where it is false, nothing counts and the gradient is 0.
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
            truth = (target == outputs).to(logits.dtype)  # a one-hot encoding would be int64 on the way
            labelled, scored = target > 0, slice(1, None)
        if foreground_weight != 1:
            error = error * torch.where(labelled, foreground_weight, 1.0)
        predicted = structures.activate(logits)[:, scored]
        return _mean(error, known) + soft_dice_loss(predicted, truth[:, scored], known)

    return criterion


def soft_dice_loss(predicted: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """1 - Dice of probabilities and masks (B, K, X, Y, Z), over the batch, averaged over K (arXiv 1606.04797).

    Voxels that are not `known` (see `make_criterion`) are left out.
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
    """The mean loss of logits (B, K, X, Y, Z) of several levels, the finest first, by the criterion of one level.

    Each level weighs half of the next finer one (arXiv 1809.10486). Label values (B, 1, X, Y, Z) and `known` (see
    `make_criterion`) are of the finest level; coarser levels take its nearest voxels.
    """
    total, weights = levels[0].new_zeros(()), [0.5**level for level in range(len(levels))]
    for weight, logits in zip(weights, levels, strict=True):
        at, where = (None if x is None else _nearest(x, logits) for x in (label, known))
        total = total + weight * criterion(logits, at, foreground_weight, where)
    return total / sum(weights)


def _nearest(volume: Tensor, logits: Tensor) -> Tensor:
    if volume.shape[2:] == logits.shape[2:]:
        return volume
    return functional.interpolate(volume.float(), logits.shape[2:], mode="nearest-exact").to(volume.dtype)


def compare_known(
    structures: Structures, levels: Sequence[Tensor], label: Tensor, annotated: Sequence[Sequence[int] | None]
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """The arguments of a loss that only counts what is known, from logits (B, K, X, Y, Z) of each level of the decoder.

    `annotated` has for each crop the label values that were annotated in its case, or None where all were.

    Returns:
        the logits, the label values, and where they are known (bool, (B, 1, X, Y, Z) or, of regions, (B, K, X, Y, Z)),
        or None where everything is.
    """
    known = None if structures.ignore is None else label != structures.ignore
    if all(values is None for values in annotated):
        return list(levels), label, known
    unknown = torch.tensor([structures.unknown(values) for values in annotated], device=label.device)
    if structures.regions:
        everywhere = torch.ones_like(label, dtype=torch.bool) if known is None else known
        return list(levels), label, everywhere & ~unknown[..., None, None, None]
    # A label in the map of a case in which it was not annotated throughout is as good as none.
    table = torch.tensor([[values is None or value in values for value in range(256)] for values in annotated])
    counts = table.to(label.device).gather(1, label.flatten(1)).view_as(label)
    return [merge_unknown(logits, unknown) for logits in levels], label * counts, known


def merge_unknown(logits: Tensor, unknown: Tensor) -> Tensor:
    """Logits (B, K, X, Y, Z) of labels whose background takes in the outputs of which nothing is known.

    Where a crop's label map shows background, any label that nobody annotated there may be (arXiv 2007.03868): only the
    sum of their probabilities is compared with it. `unknown` (B, K) bool are the outputs that were not annotated in a
    crop's case; never the background.
    """
    hidden = unknown[:, 1:, None, None, None]
    outside, labels = logits[:, :1], logits[:, 1:]
    joined = torch.cat([outside, labels.masked_fill(~hidden, -torch.inf)], dim=1).logsumexp(dim=1, keepdim=True)
    return torch.cat([joined, labels.masked_fill(hidden, -torch.inf)], dim=1)


def loss_name(structures: Structures) -> str:
    """The loss as the axis of a plot names it."""
    return "Dice + binary cross-entropy" if structures.regions else "Dice + cross-entropy"

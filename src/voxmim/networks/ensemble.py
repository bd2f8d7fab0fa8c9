"""Several networks as one, such as those of the folds of a cross-validation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Ensemble(nn.Module):
    """Averages what networks say of a volume.

    Args:
        members: networks of volumes (B, C, X, Y, Z), each with an output (B, K, ...).
        average: one output from theirs, stacked as (M, B, K, ...): `mean_of_labels`, `mean_of_regions` or `mean`.
    """

    def __init__(self, members: Sequence[nn.Module], average: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._average = average

    def forward(self, volume: Tensor) -> Tensor:
        return self._average(torch.stack([member(volume).float() for member in self.members]))


def mean_of_labels(logits: Tensor) -> Tensor:
    """Logits (B, K, ...) whose softmax is the mean of the members' probabilities."""
    return logits.log_softmax(dim=2).logsumexp(dim=0)


def mean_of_regions(logits: Tensor) -> Tensor:
    """Logits (B, K, ...) whose sigmoid is the mean of the members' probabilities."""
    return functional.logsigmoid(logits).logsumexp(dim=0) - functional.logsigmoid(-logits).logsumexp(dim=0)


def mean(values: Tensor) -> Tensor:
    """The mean (B, K, ...) of the members' values."""
    return values.mean(dim=0)

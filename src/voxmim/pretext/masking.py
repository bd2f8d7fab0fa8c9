"""Which patches are hidden. A mask is bool (B, N) in `patchify`'s order; True means hidden."""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(batch: int, patches: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Hide exactly ``round(ratio * patches)`` patches of each sample, chosen uniformly (at least 1, never all).

    Args:
        batch: B, the number of samples.
        patches: N, the number of patches of a sample.
        ratio: the share that is hidden.
        generator: of the draw (on the CPU); the same state gives the same masks on every device.

    Returns:
        (B, N) bool on the CPU.
    """
    hidden = min(max(round(ratio * patches), 1), patches - 1)
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, patches, dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True)


def visible_index(mask: Tensor) -> Tensor:
    """(B, V) the rising index of the visible patches; each sample must have as many of them as the next."""
    return (~mask).nonzero()[:, 1].reshape(len(mask), -1)

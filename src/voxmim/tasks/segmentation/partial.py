"""Label maps that know only a part: what is compared with them, and what is left out of the loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from voxmim.tasks.segmentation.structures import Structures


def compare_known(
    structures: Structures, levels: Sequence[Tensor], label: Tensor, annotated: Sequence[Sequence[int] | None]
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """The arguments of a loss that only counts what is known.

    Args:
        structures: the outputs of the network.
        levels: logits (B, K, X, Y, Z) of each level of the decoder.
        label: values (B, 1, X, Y, Z).
        annotated: of each crop, the label values that were annotated in its case; None where all were.

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
    sum of their probabilities is compared with it.

    Args:
        logits: of background and labels.
        unknown: (B, K) bool, the outputs that were not annotated in a crop's case; never the background.
    """
    hidden = unknown[:, 1:, None, None, None]
    outside, labels = logits[:, :1], logits[:, 1:]
    joined = torch.cat([outside, labels.masked_fill(~hidden, -torch.inf)], dim=1).logsumexp(dim=1, keepdim=True)
    return torch.cat([joined, labels.masked_fill(hidden, -torch.inf)], dim=1)

"""Loading the decoder and head of a fine-tuned network, whose outputs are matched by name."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from voxmim.weights.load import LoadReport, copy_fitting

HEADS = ("out", "coarse", "direct", "head")  # modules of segmentors and classifiers with one channel per output
BACKGROUND = "background"
_NEW = math.log(0.01)  # logit of a new label relative to the background's


def load_head(
    network: nn.Module, tensors: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str], report: LoadReport
) -> None:
    """Load all weights of a fine-tuned network except the encoder's.

    Outputs of the same name are kept; without any, the head stays random. A new label starts with a hundredth of the
    background's probability (arXiv 2002.00718), and a new region with a probability of 0.01, so that the predictions
    of the others do not change.

    Args:
        network: the network.
        tensors: of the file, with the encoder's under ``encoder.``.
        old, new: the names of the outputs in the file and of the network.
        report: of the encoder, which is extended.
    """
    index = {name.casefold(): i for i, name in enumerate(old)}
    sources = [index.get(name.casefold()) for name in new]
    kept = [name for name, source in zip(new, sources, strict=True) if source is not None]
    keeps_head, labels = bool(set(kept) - {BACKGROUND}), BACKGROUND in old
    state, offered = (
        {name: tensor for name, tensor in whole.items() if not name.startswith("encoder.")}
        for whole in (network.state_dict(), tensors)
    )
    for name in [name for name in state if name in offered and name.partition(".")[0] in HEADS]:
        weights, random = offered[name], state[name]
        if keeps_head and weights.shape[1:] == random.shape[1:]:
            rows = [_row(name, weights, row, source, labels) for source, row in zip(sources, random, strict=True)]
            offered[name] = torch.stack(rows)
        else:
            report.missing[name] = "fresh, for other labels"
            del state[name], offered[name]
    copy_fitting(state, offered, report)
    names = {name.casefold() for name in new}
    parts = {
        "kept": kept if keeps_head else [],
        "new": [name for name in new if name.casefold() not in index or not keeps_head],
        "no longer learned": [name for name in old if name.casefold() not in names],
    }
    shown = {what: [name for name in listed if name != BACKGROUND] for what, listed in parts.items()}
    report.outputs = "; ".join(f"{what}: {', '.join(listed)}" for what, listed in shown.items() if listed)


def _row(name: str, weights: Tensor, random: Tensor, source: int | None, labels: bool) -> Tensor:
    """An output's row of a head's weight or bias: that of its source, or the start of a new label, region or class."""
    if source is not None:
        return weights[source]
    if name.startswith("head"):
        return random
    shift = _NEW if weights.dim() == 1 and not name.startswith("direct") else 0.0  # `direct` is added to `out`
    return weights[0] + shift if labels else torch.full_like(random, shift)

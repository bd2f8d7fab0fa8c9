"""Going on from a fine-tuned network: its decoder as it is, its head by the names of its outputs."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from voxmim.weights.load import LoadReport, copy_fitting

HEADS = ("out", "coarse", "direct", "head")  # modules of segmentors and classifiers with one channel per output
BACKGROUND = "background"
_NEW = math.log(0.01)  # of a new label's probability, as a fraction of the background's


def load_onward(
    network: nn.Module, tensors: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str], report: LoadReport
) -> None:
    """Load all but the encoder of a fine-tuned network.

    An output goes on where the new network has one of its name; without any in common, the head stays fresh. A new
    label begins as a hundredth of the background (arXiv 2002.00718), and a new region, which has no background beside
    it, at a probability of 0.01: neither changes what the others predict.

    Args:
        network: gets the weights.
        tensors: those of the file, with the encoder's under ``encoder.``.
        old, new: the name of each output in the file, and of the network.
        report: of the encoder; what happens here is added.
    """
    places = {name.casefold(): index for index, name in enumerate(old)}
    sources = [places.get(name.casefold()) for name in new]
    kept = [name for name, source in zip(new, sources, strict=True) if source is not None]
    goes_on, labels = bool(set(kept) - {BACKGROUND}), BACKGROUND in old
    state, offered = (
        {name: tensor for name, tensor in whole.items() if not name.startswith("encoder.")}
        for whole in (network.state_dict(), tensors)
    )
    for name in [name for name in state if name in offered and name.partition(".")[0] in HEADS]:
        found, fresh = offered[name], state[name]
        if goes_on and found.shape[1:] == fresh.shape[1:]:
            rows = [_row(name, found, row, at, labels) for at, row in zip(sources, fresh, strict=True)]
            offered[name] = torch.stack(rows)
        else:
            report.missing[name] = "fresh, for other labels"
            del state[name], offered[name]
    copy_fitting(state, offered, report)
    names = {name.casefold() for name in new}
    parts = {
        "kept": kept if goes_on else [],
        "new": [name for name in new if name.casefold() not in places or not goes_on],
        "no longer learned": [name for name in old if name.casefold() not in names],
    }
    shown = {what: [name for name in listed if name != BACKGROUND] for what, listed in parts.items()}
    report.outputs = "; ".join(f"{what}: {', '.join(listed)}" for what, listed in shown.items() if listed)


def _row(name: str, found: Tensor, fresh: Tensor, source: int | None, labels: bool) -> Tensor:
    """An output's row of a head's weight or bias: that of its source, or how a new label, region or class begins."""
    if source is not None:
        return found[source]
    if name.startswith("head"):
        return fresh
    shift = _NEW if found.dim() == 1 and not name.startswith("direct") else 0.0  # `direct` is added to `out`
    return found[0] + shift if labels else torch.full_like(fresh, shift)

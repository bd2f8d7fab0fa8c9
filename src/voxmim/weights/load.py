"""Weights that move into a network: what fits is copied, what can be adapted is adapted, and each tensor is told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.weights.adapt import Layout, adapt

LEAST_LOADED = 0.9  # of an encoder's parameters; with fewer, the encoder is hardly the one that was pre-trained
_SHOWN = 3  # names of many


@dataclass
class Transfer:
    """The account of what moved from a file into a network.

    Attributes:
        loaded: tensors copied as they are.
        resized: tensors that were adapted, and how.
        renamed: tensors copied as they are from under another name, and that name.
        fresh: tensors of the network that the file does not have, or has in another shape, and the shapes.
        skipped: tensors of the file that the network has no place for.
        share: of the network's values that were loaded, resized or renamed, 0..1.
        warnings: what else should be known of these weights, one sentence each.
    """

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    share: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """The account as a table: what happened, to how many tensors, to which."""
        renamed = [f"{theirs} to {ours}" for ours, theirs in self.renamed.items()]
        listed = [
            ("loaded", self.loaded, ""),
            ("resized", self.resized, _first([f"{name}: {how}" for name, how in self.resized.items()])),
            ("renamed", self.renamed, _first(renamed)),
            ("fresh", self.fresh, _first([f"{name}: {shapes}" for name, shapes in self.fresh.items()])),
            ("skipped", self.skipped, _first(self.skipped)),
        ]
        return [[what, str(len(names)), which] for what, names, which in listed] + [
            ["share of the encoder", f"{self.share:.1%}", ""]
        ]

    def __str__(self) -> str:
        *counts, _ = self.rows()
        parts = [f"{count} {what}" + (f" ({which})" if which else "") for what, count, which in counts if count != "0"]
        return f"tensors: {', '.join(parts) or 'none'}; {self.share:.1%} of the encoder's parameters"


def load_into(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    origin: str,
    least: float = LEAST_LOADED,
    inner: str = "",
    layouts: tuple[Layout, Layout] | None = None,
) -> Transfer:
    """Copy what fits from `tensors` into a network, and account for every tensor.

    Args:
        network: gets the weights.
        tensors: those of a file.
        origin: the file, for the error.
        least: share of the network's values that must be found.
        inner: prefix of the wanted tensors in the file, such as ``encoder.``.
        layouts: what an encoder takes in, that of the file and that of the network; the weights are made to fit.

    Raises:
        WeightsError: fewer than `least` of the network's values are in the file.
    """
    transfer, state = Transfer(), network.state_dict()
    offered = {name.removeprefix(inner): tensor for name, tensor in tensors.items() if name.startswith(inner)}
    if layouts is not None:
        try:
            offered, transfer.resized = adapt(offered, *layouts)
        except ValueError as error:
            raise WeightsError(f"{origin}: {error}, as its own description has it; make the file anew.") from None
    transfer.skipped = sorted(set(offered) - set(state))
    found = 0
    for name, tensor in state.items():
        source = offered.get(name)
        if source is None or source.shape != tensor.shape:
            have = "not in the file" if source is None else f"{tuple(source.shape)} in the file"
            transfer.fresh[name] = f"{have}, {tuple(tensor.shape)} in the network"
            transfer.resized.pop(name, None)
            continue
        if name not in transfer.resized:
            transfer.loaded.append(name)
        tensor.copy_(source)
        found += tensor.numel()
    transfer.share = found / max(1, sum(tensor.numel() for tensor in state.values()))
    if transfer.share < least:
        misfits = "; ".join(f"{name}: {shapes}" for name, shapes in list(transfer.fresh.items())[:_SHOWN])
        raise WeightsError(
            f"{origin}: only {transfer.share:.0%} of the network's parameters fit, and the first that do not are "
            f"{misfits}; use the recipe that the weights were trained with."
        )
    return transfer


def _first(names: list[str]) -> str:
    return "; ".join(names[:_SHOWN]) + ("; ..." if len(names) > _SHOWN else "")

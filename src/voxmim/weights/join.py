"""Ensembles: the networks of several runs as one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.errors import WeightsError

_SAME = ("labels", "regions", "values", "classes")  # in all runs of an ensemble, with their preparation
_INPUT = ("window", "crop", "overlap")  # in all runs that are joined to one network

Loaded = tuple[nn.Module, dict[str, Any]]


def load_joined(load: Callable[[Path | str], Loaded], runs: Sequence[Path | str]) -> Loaded:
    """Load the network of one run folder or weights file, or an ensemble of several, with the metadata of the first.

    Raises:
        WeightsError: one cannot be loaded, or differs from the first in its preparation, crop, labels or classes.
    """
    loaded = [load(run) for run in runs]
    _refuse_different(runs, loaded, _SAME + _INPUT)
    return _join(loaded)


def join_groups(runs: Sequence[Path | str], loaded: Sequence[Loaded]) -> list[tuple[Loaded, int]]:
    """Join the networks of runs that may differ in window, crop and overlap.

    Returns:
        one network for each combination of these, with the metadata of its first run, and its number of runs.

    Raises:
        WeightsError: one differs from the first in its preparation or labels.
    """
    _refuse_different(runs, loaded, _SAME)
    groups: dict[str, list[Loaded]] = {}
    for network, metadata in loaded:
        groups.setdefault(repr([metadata[key] for key in _INPUT]), []).append((network, metadata))
    return [(_join(group), len(group)) for group in groups.values()]


def _refuse_different(runs: Sequence[Path | str], loaded: Sequence[Loaded], keys: Sequence[str]) -> None:
    """Raise WeightsError if a run differs from the first in its preparation or in one of the metadata's keys."""
    first, *others = (metadata | metadata["preparation"] for _, metadata in loaded)
    for run, other in zip(runs[1:], others, strict=True):
        for key in (*first["preparation"], *other["preparation"], *keys):
            if other.get(key) != first.get(key):
                raise WeightsError(
                    f"{run}: its {key} is {other.get(key)}, but that of {runs[0]} is {first.get(key)}; only runs "
                    "that agree in it can be averaged."
                )


def _join(loaded: Sequence[Loaded]) -> Loaded:
    """One network that averages the given ones, with the metadata of the first."""
    network, metadata = loaded[0]
    if len(loaded) == 1:
        return network, metadata
    average: Callable[[Tensor], Tensor] = mean_of_regions if metadata.get("regions") else mean_of_labels
    if metadata["kind"] == "regressor":
        average = mean
    return Ensemble([member for member, _ in loaded], average).eval(), metadata


class Ensemble(nn.Module):
    """Averages the outputs (B, K, ...) of M networks for a volume (B, C, X, Y, Z).

    `average` is called with the stacked outputs (M, B, K, ...).
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

"""The networks of several runs as one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.networks.ensemble import Ensemble, mean, mean_of_labels, mean_of_regions

_SAME = ("preparation", "window", "crop", "overlap", "labels", "regions", "values", "classes")

Loaded = tuple[nn.Module, dict[str, Any]]


def load_joined(load: Callable[[Path | str], Loaded], runs: Sequence[Path | str]) -> Loaded:
    """The network of one run, or of several as an ensemble, with the metadata of the first.

    Args:
        load: loads one of them.
        runs: run folders or weights files.

    Raises:
        WeightsError: one cannot be loaded, or treats scans or labels in another way than the first.
    """
    loaded = [load(run) for run in runs]
    network, metadata = loaded[0]
    if len(loaded) == 1:
        return network, metadata
    for run, (_, other) in zip(runs, loaded, strict=True):
        for key in _SAME:
            if other.get(key) != metadata.get(key):
                raise WeightsError(
                    f"{run}: its {key} is {other.get(key)}, but that of {runs[0]} is {metadata.get(key)}; only runs "
                    "that agree in it can be averaged."
                )
    average: Callable[[Tensor], Tensor] = mean_of_regions if metadata.get("regions") else mean_of_labels
    if metadata["kind"] == "regressor":
        average = mean
    return Ensemble([member for member, _ in loaded], average).eval(), metadata

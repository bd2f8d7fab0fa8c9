"""The error of a loss that is not finite, with its cause: the scans, the weights, or unknown."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import nn

from voxmim.store.crops import Batch
from voxmim.store.format import Store
from voxmim.training.one_process import Fabric
from voxmim.training.processes import raise_on_all_ranks

HINT = "start again with a lower --lr, a longer warm-up or --precision 32"


def raise_nonfinite(
    fabric: Fabric, what: str, network: nn.Module, batch: Batch, files: Callable[[list[str]], list[str]]
) -> NoReturn:
    """End all processes; each calls this with its own crops.

    Raises:
        TrainingError: on the first process, with the most certain cause of all processes.
    """
    certain, cause = find_cause(network, batch, files(batch.names))
    raise_on_all_ranks(fabric, cause, certain, f"{what}: ")


def find_cause(network: nn.Module, batch: Batch, files: Sequence[str]) -> tuple[bool, str]:
    """Whether the cause is certain, and a message; `files` are the image files of each crop of the batch."""
    bad_crops = (~torch.isfinite(batch.image).flatten(1).all(1)).tolist()
    if any(bad_crops):
        bad = _listed([name for name, is_bad in zip(files, bad_crops, strict=True) if is_bad])
        return True, f"these scans hold values that are not finite: {bad}; check and prepare them again."
    names = [name for name, weights in network.named_parameters() if not torch.isfinite(weights).all()]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return True, f"the weights {names[0]}{more} are not finite since the step before; {HINT}."
    return False, f"crops and weights are finite; look at the scans {_listed(files)}, or {HINT}."


def image_files(store: Store, names: Sequence[str]) -> list[str]:
    """The image files of each case, joined by commas."""
    return [", ".join(store.cases[name].image) for name in names]


def _listed(files: Sequence[str]) -> str:
    return ", ".join(sorted(set(files)))

"""The error of a loss that is not finite, with its cause: the scans, the weights, or unknown."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from voxmim.store.format import Store
from voxmim.training.one_process import Fabric
from voxmim.training.processes import raise_on_all_ranks

HINT = "start again with a lower --lr, a longer warm-up or --precision 32"


def raise_nonfinite(
    fabric: Fabric, what: str, network: nn.Module | None, finite: Tensor, files: Sequence[str]
) -> NoReturn:
    """End all processes; each calls this with its own crops. See `find_cause` for the other arguments.

    Raises:
        TrainingError: on the first process, with the most certain cause of all processes.
    """
    certain, cause = find_cause(network, finite, files)
    raise_on_all_ranks(fabric, cause, certain, f"{what}: ")


def find_cause(network: nn.Module | None, finite: Tensor, files: Sequence[str]) -> tuple[bool, str]:
    """Whether the cause is certain, and a message.

    Args:
        network: the network with the weights of that step; None if they have changed since.
        finite: whether each crop of the batch is finite (B,), on any device.
        files: the image files of each crop.
    """
    if not finite.all():
        bad = _listed([name for name, is_finite in zip(files, finite.tolist(), strict=True) if not is_finite])
        return True, f"these scans hold values that are not finite: {bad}; check and prepare them again."
    if network is None:
        return False, f"the crops are finite; look at the scans {_listed(files)}, or {HINT}."
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

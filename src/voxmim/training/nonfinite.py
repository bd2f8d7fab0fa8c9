"""Where a loss that is not finite arose: in which scans, weights or layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from voxmim.store.crops import Batch
from voxmim.store.format import Store

ANEW = "start anew with a lower --lr, a longer warm-up or --precision 32"


def explain(
    network: nn.Module, batch: Batch, loss: Callable[[nn.Module], Tensor], files: Sequence[str]
) -> tuple[str, str]:
    """What to say of a loss that is not finite: where it arose, on which files, what to try.

    The first text is its cause, nothing if it lies in neither scans nor weights. The second is the layer where it arose
    (perhaps one that mixes what several processes brought), nothing if that is none.

    Args:
        network: whole and unwrapped, with the weights that gave the loss.
        batch: the crops that gave it.
        loss: computes it once more, drawing the same random numbers.
        files: the image files of each crop, one text a crop.
    """
    with _not_finite(network) as layers, torch.no_grad():
        loss(network)  # on every process, as they may have to meet in it
    broken = ~torch.isfinite(batch.image).flatten(1).all(1)
    if broken.any():
        culprits = _listed(name for name, bad in zip(files, broken.tolist(), strict=True) if bad)
        return f"the scans themselves hold values that are not finite: {culprits}; check and prepare them again.", ""
    names = [name for name, weights in network.named_parameters() if not torch.isfinite(weights).all()]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"the weights {names[0]}{more} had become so in the step before, on other crops; {ANEW}.", ""
    return "", f"it arose in {layers[0]}, on {_listed(files)}; look at these scans, or {ANEW}." if layers else ""


def unexplained(files: Sequence[str]) -> str:
    """What to say where nothing was found."""
    return f"it arose in the loss itself, on {_listed(files)}; look at these scans, or {ANEW}."


def image_files(store: Store, names: Sequence[str]) -> list[str]:
    """The image files of cases, one text a case."""
    return [", ".join(store.cases[name].image) for name in names]


@contextmanager
def _not_finite(network: nn.Module) -> Iterator[list[str]]:
    """The layers whose output is not finite, in the order in which they are done, while the block runs."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
                found.append(f"{name} ({type(module).__name__})")

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a layer's output, however it is nested."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _listed(files: Any) -> str:
    return ", ".join(sorted(set(files)))

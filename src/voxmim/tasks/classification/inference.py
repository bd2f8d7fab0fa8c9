"""The output of a classifier or regressor for a whole prepared scan, averaged over windows."""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.precision import working_dtype
from voxmim.store.crops import Triple


def class_probabilities(network: nn.Module, image: Tensor, crop: Triple, precision: str = "auto") -> Tensor:
    """(K,) probabilities of the classes; see `scan_output`."""
    return scan_output(network, image, crop, precision, lambda logits: logits.softmax(0))


@torch.no_grad()
def scan_output(
    network: nn.Module,
    image: Tensor,
    crop: Triple,
    precision: str = "auto",
    activate: Callable[[Tensor], Tensor] = lambda output: output,
) -> Tensor:
    """The output for a whole scan: the mean over the fewest windows that cover it.

    Args:
        network: returns (1, K) for a crop (1, C, *crop); in evaluation mode.
        image: (C, X, Y, Z) float32, the network's input.
        crop: the size of a window, which is that of the training crops.
        precision: of the recipe; see `working_dtype`.
        activate: applied to the output (K,) of each window before averaging.

    Returns:
        (K,) float32 on the CPU.
    """
    device = next(network.parameters()).device
    dtype = working_dtype(device, precision)
    outputs = []
    for start in windows((image.shape[1], image.shape[2], image.shape[3]), crop):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = network(cut(image, start, crop)[None].to(device))
        outputs.append(activate(output[0].float()))
    return torch.stack(outputs).mean(0).cpu()


def windows(shape: Triple, crop: Triple) -> list[Triple]:
    """The first voxel of each window: along each axis the fewest windows that cover the scan, evenly spaced.

    Where the scan is smaller than the window, it is centred and the start is negative.
    """
    axes = []
    for size, length in zip(shape, crop, strict=True):
        count = -(-size // length)
        axes.append(np.linspace(0, size - length, count).round().astype(int) if count > 1 else [(size - length) // 2])
    return [(int(x), int(y), int(z)) for x, y, z in product(*axes)]


def cut(image: Tensor, start: Triple, crop: Triple) -> Tensor:
    """Cut out a window (C, *crop), zero-padded outside the scan as in training: 0 is air in CT and the mean in MR."""
    inside = image[(slice(None), *(slice(max(0, s), s + length) for s, length in zip(start, crop, strict=True)))]
    pad: list[int] = []
    for axis in (2, 1, 0):  # functional.pad counts from the last axis
        before = max(0, -start[axis])
        pad += [before, crop[axis] - before - inside.shape[axis + 1]]
    return functional.pad(inside, pad)

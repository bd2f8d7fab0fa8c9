"""A whole prepared scan through the classifier, window by window."""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.precision import working_dtype
from voxmim.store.crops import Triple


def class_probabilities(network: nn.Module, image: Tensor, crop: Triple, precision: str = "auto") -> Tensor:
    """(K,) the probability of each class, which sum to 1; see `scan_output`."""
    return scan_output(network, image, crop, precision, lambda logits: logits.softmax(0))


@torch.no_grad()
def scan_output(
    network: nn.Module,
    image: Tensor,
    crop: Triple,
    precision: str = "auto",
    activate: Callable[[Tensor], Tensor] = lambda output: output,
) -> Tensor:
    """The output for a whole scan: the mean over windows that cover it, as few as can be.

    Args:
        network: gives an output (1, K) of a crop (1, C, *crop); set to evaluation by the caller.
        image: (C, X, Y, Z) float32, intensities as the network sees them.
        crop: the window, the size that the network was trained on.
        precision: of the recipe; see `working_dtype`.
        activate: turns the output (K,) of a window into what is averaged.

    Returns:
        (K,) float32 on the CPU.
    """
    device = next(network.parameters()).device
    dtype = working_dtype(device, precision)
    found = []
    for start in windows((image.shape[1], image.shape[2], image.shape[3]), crop):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = network(cut(image, start, crop)[None].to(device))
        found.append(activate(output[0].float()))
    return torch.stack(found).mean(0).cpu()


def windows(shape: Triple, crop: Triple) -> list[Triple]:
    """The first voxel of each window: along each axis as few as cover the scan, evenly spaced from end to end.

    Where the scan is smaller than the window, the start is negative and the scan lies in the window's middle.
    """
    axes = []
    for size, wide in zip(shape, crop, strict=True):
        count = -(-size // wide)
        axes.append(np.linspace(0, size - wide, count).round().astype(int) if count > 1 else [(size - wide) // 2])
    return [(int(x), int(y), int(z)) for x, y, z in product(*axes)]


def cut(image: Tensor, start: Triple, crop: Triple) -> Tensor:
    """(C, *crop) a window; what lies outside the scan is 0, which is air in CT and the mean in MR, as in training."""
    inside = image[(slice(None), *(slice(max(0, s), s + w) for s, w in zip(start, crop, strict=True)))]
    pad: list[int] = []
    for axis in (2, 1, 0):  # functional.pad counts from the last axis
        before = max(0, -start[axis])
        pad += [before, crop[axis] - before - inside.shape[axis + 1]]
    return functional.pad(inside, pad)

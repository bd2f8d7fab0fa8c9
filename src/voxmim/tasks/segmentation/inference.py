"""A whole prepared scan through the segmentor, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from voxmim.networks.precision import working_dtype
from voxmim.store.crops import has_contrast

TOGETHER = 64**3  # voxels of the windows that go through the network at once: small windows alone are slow


@torch.no_grad()
def predict_probabilities(
    network: nn.Module,
    image: Tensor,
    crop: tuple[int, int, int],
    overlap: float,
    precision: str = "auto",
    activate: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(dim=1),
) -> Tensor:
    """Probabilities of a whole scan's labels, or of its regions.

    Overlapping windows are averaged with a Gaussian weight, so that a voxel is labelled mostly by windows that have
    it near their middle. A scan smaller than the window is padded, and the padding taken off again. Windows without any
    contrast, such as those in the air around a CT, all get the answer that the network gave to the first of them.

    Args:
        network: gives logits (B, K, *crop) of crops (B, C, *crop); set to evaluation by the caller.
        image: (C, X, Y, Z) float32, intensities as the network sees them.
        crop: the window, the size that the network was trained on.
        overlap: of neighbouring windows, as a share of the window.
        precision: of the recipe; see `working_dtype`.
        activate: turns logits (B, K, ...) into probabilities (see `Structures.activate`).

    Returns:
        (K, X, Y, Z) float32 on the CPU, of labels summing to 1 over K.
    """
    device = next(network.parameters()).device
    dtype = working_dtype(device, precision)
    flat: dict[tuple[float, ...] | int, Tensor] = {}  # answers to windows of one value in each channel

    def answer(windows: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(windows)
        return activate(logits.float())

    def predictor(windows: Tensor) -> Tensor:
        keys = [
            row if has_contrast(window) else tuple(window[:, 0, 0, 0].tolist()) for row, window in enumerate(windows)
        ]
        new = {key: row for row, key in enumerate(keys) if key not in flat}
        found = flat | (dict(zip(new, answer(windows[list(new.values())]), strict=True)) if new else {})
        flat.update((key, found[key]) for key in new if isinstance(key, tuple))
        return torch.stack([found[key] for key in keys])

    probabilities = sliding_window_inference(
        image[None].to(device),
        crop,
        sw_batch_size=max(1, TOGETHER // math.prod(crop)),
        predictor=predictor,
        overlap=overlap,
        mode="gaussian",
    )
    return probabilities[0].float().cpu()

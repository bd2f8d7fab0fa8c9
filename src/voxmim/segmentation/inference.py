"""A whole prepared scan through the segmentor, window by window."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from voxmim.crops import has_contrast
from voxmim.networks.precision import working_dtype


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
        network: gives logits (1, K, *crop) of a crop (1, C, *crop); set to evaluation by the caller.
        image: (C, X, Y, Z) float32, intensities as the network sees them.
        crop: the window, the size that the network was trained on.
        overlap: of neighbouring windows, as a share of the window.
        precision: of the recipe; see `working_dtype`.
        activate: turns logits (1, K, ...) into probabilities (see `Structures.activate`).

    Returns:
        (K, X, Y, Z) float32 on the CPU, of labels summing to 1 over K.
    """
    device = next(network.parameters()).device
    dtype = working_dtype(device, precision)
    answers: dict[tuple[float, ...], Tensor] = {}

    def answer(window: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(window)
        return activate(logits.float())

    def predictor(window: Tensor) -> Tensor:
        if has_contrast(window):
            return answer(window)
        values = tuple(window[0, :, 0, 0, 0].tolist())
        if values not in answers:
            answers[values] = answer(window)
        return answers[values].clone()  # the windows are weighed in place

    probabilities = sliding_window_inference(
        image[None].to(device), crop, sw_batch_size=1, predictor=predictor, overlap=overlap, mode="gaussian"
    )
    return probabilities[0].float().cpu()

"""MONAI's SegResNet encoder: a `SegResEncoder` or the encoder of a `SegResNetDS`, such as CT-FM's."""

import re

from torch import Tensor

from voxmim.weights.layouts.layout import USUAL_CROP, Checkpoint, Imported, Layout, Request, check_channels, count

_KNOWN = r"conv_init\.weight|layers\.\d+\.(downsample\.weight|blocks\.\d+\.(conv|norm)[12]\.\w+)"


def _convert(checkpoint: Checkpoint, request: Request) -> Imported:
    """Our SegResNet."""
    names: dict[str, str] = {}
    for inner, name in checkpoint.inner().items():
        if re.fullmatch(_KNOWN, inner):
            names[f"net.{inner}"] = name
        elif inner.startswith("layers."):
            raise ValueError(f"our SegResNet has no place for {name}")
    tensors = {ours: reoriented(checkpoint.tensors[name], request.axes) for ours, name in names.items()}
    changed = [name for name, tensor in tensors.items() if tensor.dim() == 5 and request.axes != "RAS"]
    kernel = tensors["net.conv_init.weight"]
    if tuple(kernel.shape[2:]) != (3, 3, 3):
        raise ValueError(f"its first kernel is {tuple(kernel.shape[2:])}, and our SegResNet has kernels of 3 only")
    if "net.layers.0.blocks.0.norm1.weight" not in tensors:
        raise ValueError("its norm has no weights, but our SegResNet has batch or instance norm with weights")
    check_channels(kernel.shape[1], request)
    stages = range(count(tensors, r"net\.layers\.(\d+)\."))
    settings = {
        "width": len(kernel),
        "blocks": [count(tensors, rf"net\.layers\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "norm": "batch" if "net.layers.0.blocks.0.norm1.running_mean" in tensors else "instance",
    }
    changes = dict.fromkeys(changed, f"turned from {request.axes}")
    return Imported("segresnet", settings, request.crop or USUAL_CROP, tensors, names, changes)


def reoriented(tensor: Tensor, axes: str) -> Tensor:
    """A kernel for volumes in RAS+ from one for other orientation codes; other tensors are unchanged.

    A flip does not commute exactly with a stride: on an even grid, the convolution then samples the other voxels.
    """
    places = [next((i for i, code in enumerate(axes) if code in pair), None) for pair in ("RL", "AP", "SI")]
    if len(axes) != 3 or None in places:
        raise ValueError(f"axes={axes} are no orientation codes such as RAS or SPL")
    if tensor.dim() != 5:
        return tensor
    turned = tensor.permute(0, 1, *(2 + place for place in places))  # type: ignore[operator]
    return turned.flip([2 + axis for axis, place in enumerate(places) if axes[place] in "LPI"])  # type: ignore[index]


LAYOUTS = {
    "segresnet": Layout(
        "MONAI's SegResNet encoder, such as CT-FM",
        (r"conv_init\.weight", r"layers\.0\.blocks\.0\.conv1\.weight"),
        _convert,
        axes=5,
    )
}

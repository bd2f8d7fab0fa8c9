"""MONAI's SegResNet encoder: a `SegResEncoder` or the encoder of a `SegResNetDS`, such as CT-FM's."""

from __future__ import annotations

import re

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
    tensors = {ours: checkpoint.tensors[name] for ours, name in names.items()}
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
    unused = [name for name in checkpoint.tensors if name not in set(names.values())]
    return Imported("segresnet", settings, request.crop or USUAL_CROP, tensors, names, unused=unused)


LAYOUTS = {
    "segresnet": Layout(
        "MONAI's SegResNet encoder, such as CT-FM",
        (r"conv_init\.weight", r"layers\.0\.blocks\.0\.conv1\.weight"),
        _convert,
        axes=5,
    )
}

"""nnU-Net's networks: ResidualEncoderUNet (nnssl, OpenMind, ResEnc presets) and PlainConvUNet (TotalSegmentator).

nnU-Net reads scans as (z, y, x) and may transpose them again; kernels, strides and sizes are permuted to (X, Y, Z).
Its standardised CT is an affine map of our window of 0 to 1, which is folded into the first convolution.
"""

import re
from typing import Any

from torch import Tensor

from voxmim.text import counted
from voxmim.weights.layouts.layout import USUAL_CROP, Checkpoint, Imported, Layout, Request, check_channels, count
from voxmim.weights.layouts.plans import about, read_plans, turn

_LAYER = r"(conv|norm)\.(weight|bias)"
_RESIDUAL = rf"(stem\.convs\.0|stages\.\d+\.blocks\.\d+\.(conv[12]|skip\.[01]))\.{_LAYER}"
_PLAIN = rf"stages\.\d+\.0\.convs\.\d+\.{_LAYER}"


def _convert(checkpoint: Checkpoint, request: Request) -> Imported:
    """Our ResEnc."""
    plans = read_plans(checkpoint)
    residual = any(name.startswith("stem.") for name in checkpoint.inner())
    tensors, names = {}, {}
    duplicates = {name for name in checkpoint.tensors if ".all_modules." in name}
    for inner, name in checkpoint.inner().items():
        if re.fullmatch(_RESIDUAL if residual else _PLAIN, inner):
            ours = inner.replace("stem.convs.0.", "stem.") if residual else inner.replace(".0.convs.", ".blocks.")
            tensors[ours], names[ours] = turn(checkpoint.tensors[name], plans.axes), name
        elif name not in duplicates and re.match(r"(stem|stages)\.", inner):
            raise ValueError(f"our encoder has no place for {name}")
    first = "stem.conv" if residual else "stages.0.blocks.0.conv"
    kernel = tensors[f"{first}.weight"]
    check_channels(kernel.shape[1], request)
    stages = range(count(tensors, r"stages\.(\d+)\."))
    convolution = "conv1.conv" if residual else "conv"
    kernels = [tensors[f"stages.{stage}.blocks.0.{convolution}.weight"] for stage in stages]
    warnings = []
    if plans.strides is None and not residual:
        raise ValueError("names do not say its strides: put nnU-Net's plans.json beside it")
    if plans.strides is None:
        plans.strides = [(1, 1, 1), *[(2, 2, 2)] * (len(stages) - 1)]
        warnings.append("Every stage but the first is taken to halve the grid, as no plans say it (resenc.strides).")
    if len(plans.strides) != len(stages):
        raise ValueError(f"its plans have {counted(len(plans.strides), 'stage')}, but the network has {len(stages)}")
    settings: dict[str, Any] = {
        "widths": [len(first) for first in kernels],
        "blocks": [count(tensors, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "strides": [list(stride) for stride in plans.strides],
        "kernels": [list(first.shape[2:]) for first in kernels],
        "residual": residual,
    }
    wide = [name for name, tensor in tensors.items() if max(tensor.shape[2:], default=1) > 1]
    x, y, z = request.crop or plans.crop or USUAL_CROP
    scans, changes = plans.known_scans(kernel.shape[1]), dict.fromkeys(wide, "turned from (z, y, x)")
    imported = Imported(
        "resenc", settings, (x, y, z), tensors, names, changes, duplicates, [], scans, about(checkpoint), warnings
    )
    imported.add_zero_biases(wide)
    if plans.statistics and request.intensity in (None, "ct"):
        mean, std, window = plans.statistics
        low, high = scans["window"] = request.window or window
        scale, shift = (high - low) / std, (low - mean) / std
        tensors |= fold_intensity(kernel, tensors[f"{first}.bias"], first, scale, shift)
        settings["pad_value"] = -shift / scale  # nnU-Net's zero padding in our window
        changes[f"{first}.weight"] += f", folded with (HU - {mean:g}) / {std:g} for the window {low:g} to {high:g}"
        changes[f"{first}.bias"] = changes[f"{first}.weight"].partition(", ")[2]
    elif plans.statistics is None and scans.get("intensity") == "mr":
        warnings.append("nnU-Net takes the z-score of MR over the whole scan, and voxmim over its foreground.")
    return imported


def fold_intensity(kernel: Tensor, bias: Tensor, name: str, scale: float, shift: float) -> dict[str, Tensor]:
    """The convolution `name` on volumes v, from a kernel and bias that were trained on ``scale * v + shift``."""
    return {f"{name}.weight": kernel * scale, f"{name}.bias": bias + shift * kernel.sum((1, 2, 3, 4))}


LAYOUTS = {
    "nnunet_resenc": Layout(
        "nnU-Net's ResidualEncoderUNet, also of nnssl",
        (r"stem\.convs\.0\.conv\.weight", r"stages\.0\.blocks\.0\.conv1\.conv\.weight"),
        _convert,
        axes=5,
    ),
    "nnunet_plain": Layout("nnU-Net's PlainConvUNet", (r"stages\.0\.0\.convs\.0\.conv\.weight",), _convert, axes=5),
}

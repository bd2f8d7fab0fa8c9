"""MONAI's Swin transformer: in a `SwinUNETR`, or from a pre-training (also the older names)."""

import re

from voxmim.weights.layouts.layout import (
    USUAL_CROP,
    Checkpoint,
    Imported,
    Layout,
    Request,
    check_channels,
    count,
    mlp_ratio,
)

_KNOWN = r"(patch_embed\.proj|layers\dc\.0\.layer|layers\d\.0\.(downsample|blocks\.\d+\.(norm1|norm2|attn|mlp)))\..+"


def _convert(checkpoint: Checkpoint, request: Request) -> Imported:
    """Our Swin. MONAI's ``merging`` of patches, which is ours, and its ``mergingv2`` have the same names."""
    tensors, names = {}, {}
    for inner, name in checkpoint.inner().items():
        inner = re.sub(r"\.mlp\.fc(?=\d\.)", ".mlp.linear", inner)
        inner = re.sub(r"^(layers\d\.0)\.0\.", r"\1.", inner)  # MONAI's weights of 50,000 scans
        if re.fullmatch(_KNOWN, inner):
            tensors[f"swin.{inner}"], names[f"swin.{inner}"] = checkpoint.tensors[name], name
        elif re.match(r"layers|patch_embed", inner):
            raise ValueError(f"our Swin has no place for {name}")
    kernel = tensors["swin.patch_embed.proj.weight"]
    if kernel.dim() != 5:
        raise ValueError(f"the patch is {tuple(kernel.shape[2:])}, but a Swin on scans needs three axes")
    check_channels(kernel.shape[1], request)
    stages = range(1, count(tensors, r"swin\.layers(\d+)\.") + 1)
    tables = [tensors[f"swin.layers{stage}.0.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    side = round(len(tables[0]) ** (1 / 3))
    if side**3 != len(tables[0]):
        raise ValueError("the attention's windows are not cubes")
    settings = {
        "patch": list(kernel.shape[2:]),
        "width": len(kernel),
        "depths": [count(tensors, rf"swin\.layers{stage}\.0\.blocks\.(\d+)\.") for stage in stages],
        "heads": [table.shape[1] for table in tables],
        "window": (side + 1) // 2,
        "mlp_ratio": mlp_ratio(tensors["swin.layers1.0.blocks.0.mlp.linear1.weight"]),
        "conv_blocks": any(name.startswith("swin.layers1c.") for name in tensors),
        "last_merge": f"swin.layers{stages[-1]}.0.downsample.reduction.weight" in tensors,
    }
    imported = Imported("swin", settings, request.crop or USUAL_CROP, tensors, names)
    imported.add_zero_biases([name for name in tensors if name.endswith("qkv.weight")])
    return imported


_MARKS = (r"layers1\.0\.(0\.)?blocks\.0\.attn\.qkv\.weight", r"patch_embed\.proj\.weight")
LAYOUTS = {"monai_swin": Layout("MONAI's SwinUNETR, or its swinViT", _MARKS, _convert)}

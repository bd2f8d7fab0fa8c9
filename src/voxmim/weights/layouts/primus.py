"""nnssl's Primus (arXiv 2503.01835): a ViT with the blocks of EVA-02, such as OpenMind's.

Its axes are (z, y, x), as in nnU-Net. Its rotary position embedding pairs neighbouring values of a head, ours values
half a head apart, so the rows of queries and keys are reordered.
"""

import re

import torch
from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.weights.layouts.layout import (
    Checkpoint,
    Imported,
    Layout,
    Request,
    check_channels,
    count,
    grid_of_positions,
    scale_layer,
)
from voxmim.weights.layouts.plans import about, read_plans, turn

_HEADS = {396: 6, 792: 12, 864: 12, 1056: 16}  # of Primus S, B, M and L, by width
_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.project",
    "mlp.fc1_g": "mlp.gate",
    "mlp.fc1_x": "mlp.value",
    "mlp.norm": "mlp.norm",
    "mlp.fc2": "mlp.project",
}
_QKV = ("q_proj", "k_proj", "v_proj")
_SCALED = {"gamma_1": "attention.project", "gamma_2": "mlp.project"}  # LayerScale, and the layer before it


def _convert(checkpoint: Checkpoint, request: Request) -> Imported:
    """Our ViT."""
    inner = checkpoint.inner()
    plans = read_plans(checkpoint)
    kernel = turn(checkpoint["down_projection.proj.weight"], plans.axes)
    check_channels(kernel.shape[1], request)
    width, patch = len(kernel), tuple(kernel.shape[2:])
    depth = count(inner, r"eva\.blocks\.(\d+)\.")
    heads = request.heads or _HEADS.get(width, max(1, width // 66))
    tensors = {"embed.weight": kernel.flatten(1), "embed.bias": checkpoint["down_projection.proj.bias"]}
    names = {f"embed.{kind}": inner[f"down_projection.proj.{kind}"] for kind in ("weight", "bias")}
    names |= {f"norm.{kind}": inner[f"eva.norm.{kind}"] for kind in ("weight", "bias")}
    changes = {"embed.weight": "turned from (z, y, x)"}
    used = set()
    for name, whole in inner.items():
        match = re.fullmatch(r"eva\.blocks\.(\d+)\.(.+?)\.?(weight|bias)?", name)
        if match and match[2] in _PARTS:
            names[f"blocks.{match[1]}.{_PARTS[match[2]]}.{match[3]}"] = whole
        elif match and match[2] not in _SCALED and match[2].removeprefix("attn.") not in _QKV:
            raise ValueError(f"our ViT has no place for {whole}")
        elif match:
            used.add(whole)
    tensors |= {ours: checkpoint.tensors[whole] for ours, whole in names.items() if ours not in tensors}
    for block in range(depth):
        attention = f"eva.blocks.{block}.attn"
        for kind in ("weight", "bias"):
            rows = [_rows(checkpoint, f"{attention}.{part}.{kind}", width) for part in _QKV]
            rows[:2] = [_pairs_apart(part, heads, plans.axes) for part in rows[:2]]
            ours = f"blocks.{block}.attention.qkv.{kind}"
            tensors[ours], changes[ours] = torch.cat(rows), "queries, keys and values joined, pairs of RoPE reordered"
        for part, layer in _SCALED.items():
            if f"eva.blocks.{block}.{part}" in inner:
                scale_layer(tensors, f"blocks.{block}.{layer}", checkpoint[f"eva.blocks.{block}.{part}"])
    positions = checkpoint["eva.pos_embed"][0] if "eva.pos_embed" in inner else None
    registers = checkpoint["register_tokens"][0] if "register_tokens" in inner else kernel.new_zeros(0, width)
    if positions is None:
        raise ValueError("it has no learned positions, which our ViT with RoPE needs")
    crop = request.crop or plans.crop
    grid = grid_of_positions(len(positions) - len(registers), crop, patch)
    foreign = [grid[plans.axes.index(axis)] for axis in range(3)]
    table = positions[len(registers) :].reshape(*foreign, width)
    tensors["positions"] = table.permute(*plans.axes, 3).reshape(-1, width)
    names["positions"], changes["positions"] = inner["eva.pos_embed"], "turned from (z, y, x)"
    if len(registers):
        tensors["registers"], names["registers"] = registers + positions[: len(registers)], inner["register_tokens"]
    hidden = len(checkpoint["eva.blocks.0.mlp.fc1_g.weight"])
    settings = {
        "patch": list(patch),
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": (hidden + 0.5) / width,
        "position_embedding": "learned",
        "rope": True,
        "rope_temperature": 10000.0,
        "swiglu": True,
        "registers": len(registers),
    }
    scans = plans.known_scans(kernel.shape[1])
    sizes = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
    guess = [] if request.heads or width in _HEADS else [f"The number of heads is taken as {heads} (vit.heads)."]
    return Imported("vit", settings, sizes, tensors, names, changes, used, [], scans, about(checkpoint), guess)


def _rows(checkpoint: Checkpoint, name: str, width: int) -> Tensor:
    """The rows of a projection; a missing bias, as of keys, is zero."""
    whole = checkpoint.prefix + name
    return checkpoint.tensors[whole] if whole in checkpoint.tensors else torch.zeros(width)


def _pairs_apart(rows: Tensor, heads: int, axes: Triple) -> Tensor:
    """Reorder rows from neighbouring pairs to pairs half a head apart, and from the network's axes to (X, Y, Z)."""
    pairs = rows.unflatten(0, (heads, 3, -1, 2))[:, list(axes)]  # heads, axes, frequencies, values of a pair
    return pairs.movedim(3, 1).flatten(0, 3)


LAYOUTS = {
    "primus": Layout(
        "nnssl's Primus, also of OpenMind",
        (r"down_projection\.proj\.weight", r"eva\.blocks\.0\.attn\.q_proj\.weight"),
        _convert,
        axes=5,
    )
}

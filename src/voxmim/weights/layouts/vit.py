"""Vision transformers: MONAI's ViT and masked autoencoder, and ViTs in timm's names (2D MAE, 3DINO).

A class token becomes a register of our ViT, a token without a position. LayerScale (arXiv 2103.17239) is multiplied
into the layer before it.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions
from voxmim.text import counted
from voxmim.weights.adapt import pick_channels
from voxmim.weights.layouts.layout import (
    USUAL_CROP,
    Checkpoint,
    Imported,
    Layout,
    Request,
    check_channels,
    count,
    cube,
    grid_of_crop,
    grid_of_positions,
    mlp_ratio,
    scale_layer,
)

_HEAD_WIDTH = 64  # of most ViTs
_NORMS = {"norm1": "norm1", "norm2": "norm2", "norm": "norm", "cls_token": "registers"}
MONAI_NAMES = _NORMS | {
    "patch_embedding.patch_embeddings.1": "embed",  # linear; the export uses the next name, of a convolution
    "patch_embedding.patch_embeddings": "embed",
    "patch_embedding.position_embeddings": "positions",
    "attn.qkv": "attention.qkv",
    "attn.out_proj": "attention.project",
    "mlp.linear1": "mlp.0",
    "mlp.linear2": "mlp.2",
}
_TIMM_NAMES = _NORMS | {
    "patch_embed.proj": "embed",
    "pos_embed": "positions",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_SCALED = {"ls1.gamma": "attention.project", "ls2.gamma": "mlp.2"}  # LayerScale, and the layer before it


def _from_monai(checkpoint: Checkpoint, request: Request) -> Imported:
    """MONAI's `ViT`, alone or in a `UNETR`, or the encoder of its `MaskedAutoEncoderViT`."""
    found = _rename(checkpoint, MONAI_NAMES)
    weight, positions = found.tensors["embed.weight"], found.tensors["positions"][0]
    if weight.dim() == 2:  # linear, over (X, Y, Z, channels)
        channels = request.channels or 1
        patch = request.patch or cube(weight.shape[1] // channels, "inputs of the embedding", "vit.patch")
        if weight.shape[1] % math.prod(patch):
            raise ValueError(f"the embedding has {weight.shape[1]} inputs, which are no patches of {patch}")
        weight = weight.unflatten(1, (*patch, -1)).movedim(-1, 1)
    return _completed(found, weight, positions, request)


def _from_timm_3d(checkpoint: Checkpoint, request: Request) -> Imported:
    """A 3D ViT with a class token in timm's names, such as 3DINO's."""
    found = _rename(checkpoint, _TIMM_NAMES)
    return _completed(found, found.tensors["embed.weight"], _patch_positions(found), request)


def _from_timm_2d(checkpoint: Checkpoint, request: Request) -> Imported:
    """A 2D masked autoencoder (arXiv 2111.06377), inflated along Z.

    Rows of the images become X, columns Y. The kernel is divided over the patch's voxels along Z and the positions are
    repeated, so that a volume that is constant along Z has the embedding of its slice.
    """
    found = _rename(checkpoint, _TIMM_NAMES)
    kernel = found.tensors["embed.weight"]
    x, y = kernel.shape[2:]
    patch = request.patch or (x, y, x)
    if patch[:2] != (x, y):
        raise ValueError(f"the patch is {(x, y)}, not {patch[:2]}")
    channels = request.channels or 1
    inflated = kernel.unsqueeze(-1).repeat(1, 1, 1, 1, patch[2]) / patch[2]
    weight = pick_channels(inflated, [None] * channels) if channels != kernel.shape[1] else inflated
    table = _patch_positions(found)
    side = math.isqrt(len(table))
    if side**2 != len(table):
        raise ValueError(f"{len(table)} positions are not those of a square of patches")
    crop = request.crop or USUAL_CROP
    grid = grid_of_crop(crop, patch)
    found.changes |= {
        "embed.weight": f"inflated from {(x, y)} to {patch}, "
        f"{counted(channels, 'channel')} instead of {kernel.shape[1]}",
        "positions": f"interpolated and repeated for a grid of {grid}",
    }
    positions = resize_positions(table, (side, side, 1), grid)
    return _completed(found, weight, positions, request._replace(crop=crop))


def _patch_positions(found: Imported) -> Tensor:
    """The positions (N, width) of the patches; the class token's is added to the token."""
    table = found.tensors["positions"][0]
    found.tensors["registers"] = found.tensors["registers"] + table[:1]
    found.changes["registers"] = "the class token with its position"
    return table[1:]


def _completed(found: Imported, weight: Tensor, positions: Tensor, request: Request) -> Imported:
    """Our ViT with a kernel (width, C, px, py, pz) and positions (N, width) of a grid."""
    if weight.dim() != 5:
        raise ValueError(f"the patch is {tuple(weight.shape[2:])}, but a ViT on scans needs three axes")
    grid = grid_of_positions(len(positions), request.crop, weight.shape[2:])
    patch: Triple = tuple(weight.shape[2:])  # type: ignore[assignment]
    if request.patch not in (None, patch):
        raise ValueError(f"the patch is {patch}, not {request.patch}")
    check_channels(weight.shape[1], request)
    tensors, width = found.tensors, len(weight)
    if len(tensors.get("registers", ())) == 1:
        tensors["registers"] = tensors["registers"][0]
    found.add_zero_biases([name for name in tensors if name.endswith("qkv.weight")])
    found.settings = {
        "patch": list(patch),
        "width": width,
        "depth": count(tensors, r"blocks\.(\d+)\."),
        "heads": request.heads or max(1, width // _HEAD_WIDTH),
        "mlp_ratio": mlp_ratio(tensors["blocks.0.mlp.0.weight"]),
        "position_embedding": "learned",
        "registers": len(tensors.get("registers", ())),
    }
    found.crop = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
    tensors |= {"embed.weight": weight.flatten(1), "positions": positions}
    if not request.heads:
        heads = found.settings["heads"]
        found.warnings = [f"The number of heads is taken as {heads}, as weights do not say it (vit.heads)."]
    return found


def _rename(checkpoint: Checkpoint, parts: Mapping[str, str]) -> Imported:
    """A ViT's tensors under our names, without its settings."""
    tensors, names, scales = {}, {}, {}
    for inner, name in checkpoint.inner().items():
        inner = re.sub(r"^blocks\.\d+(?=\.(weight|bias)$)", "norm", inner)  # the last norm in MONAI's MAE
        inner = re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", inner)  # the chunks of blocks in DINOv2
        block, part, kind = split(inner)
        if part in parts:
            ours = f"{block}{parts[part]}{kind}"
            tensors[ours], names[ours] = checkpoint.tensors[name], name
        elif part in _SCALED:
            scales[f"{block}{_SCALED[part]}"] = name
        elif block and "cross_attn" not in part:  # unused in MONAI's blocks
            raise ValueError(f"our ViT has no place for {name}")
    for layer, name in scales.items():
        scale_layer(tensors, layer, checkpoint.tensors[name])
    return Imported("vit", {}, USUAL_CROP, tensors, names, used=set(scales.values()))


def split(name: str) -> tuple[str, str, str]:
    """Split a ViT's name into the block's prefix, the part, and ``.weight`` or ``.bias``; missing ones are empty."""
    match = re.fullmatch(r"(blocks\.\d+\.)?(.+?)(\.weight|\.bias)?", name)
    assert match
    return match[1] or "", match[2], match[3] or ""


_MONAI_MARKS = (r"patch_embedding\.position_embeddings", r"patch_embedding\.patch_embeddings\.(1\.)?weight")
_TIMM_MARKS = (r"patch_embed\.proj\.weight", "pos_embed", "cls_token", r"blocks\.(0\.)?0\.attn\.qkv\.weight")
LAYOUTS = {
    "monai_mae": Layout("MONAI's MaskedAutoEncoderViT", (*_MONAI_MARKS, r"blocks\.\d+\.weight"), _from_monai),
    "monai_vit": Layout("MONAI's ViT, also in a UNETR", (*_MONAI_MARKS, r"blocks\.0\.attn\.qkv\.weight"), _from_monai),
    "mae_2d": Layout("2D MAE ViTs of facebookresearch/mae", _TIMM_MARKS, _from_timm_2d, axes=4),
    "vit_3d": Layout("3D ViTs in timm's names, such as 3DINO", _TIMM_MARKS, _from_timm_3d, axes=5),
}

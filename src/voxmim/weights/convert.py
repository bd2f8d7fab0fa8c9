"""Weights from and for other packages: MONAI's ViT, masked autoencoder and Swin, and 2D masked autoencoders.

A foreign class token becomes a register of our ViT: a token without a place that takes part in the attention.
What belongs to no encoder (decoders, heads) is left out, and named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions
from voxmim.networks.swin import Swin
from voxmim.networks.vit import ViT
from voxmim.weights.adapt import resize_channels

State = Mapping[str, Tensor]


class Imported(NamedTuple):
    """What came out of a foreign checkpoint.

    Attributes:
        tensors: under our encoder's names.
        left: foreign names of what our encoder has no use for.
        names: the foreign name of each tensor; those that were made, such as biases of zero, have none.
    """

    tensors: dict[str, Tensor]
    left: list[str]
    names: dict[str, str]


# Names, as patterns, that tell a naming; the first is looked for under any prefix, the others under the same one.
_MONAI_EMBEDDING = (r"patch_embedding\.position_embeddings", r"patch_embedding\.patch_embeddings\.(1\.)?weight")
_MARKS = {
    "monai_mae": (*_MONAI_EMBEDDING, r"blocks\.\d+\.weight"),
    "monai_vit": (*_MONAI_EMBEDDING, r"blocks\.0\.attn\.qkv\.weight"),
    "monai_swin": (r"layers1\.0\.blocks\.0\.attn\.qkv\.weight", r"patch_embed\.proj\.weight"),
    "mae_2d": (r"pos_embed", "cls_token", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
}

# Foreign names of a ViT's parts, without the number of the block, to ours.
_NORMS = {"norm1": "norm1", "norm2": "norm2", "norm": "norm", "cls_token": "registers"}
_MONAI_VIT = _NORMS | {
    "patch_embedding.patch_embeddings.1": "embed",  # of a perceptron; the export takes the next, a convolution
    "patch_embedding.patch_embeddings": "embed",
    "patch_embedding.position_embeddings": "positions",
    "attn.qkv": "attention.qkv",
    "attn.out_proj": "attention.project",
    "mlp.linear1": "mlp.0",
    "mlp.linear2": "mlp.2",
}
_MAE_2D = _NORMS | {
    "patch_embed.proj": "embed",
    "pos_embed": "positions",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


def recognise(state: Mapping[str, object]) -> str:
    """The naming of a foreign checkpoint: ``monai_vit``, ``monai_mae``, ``monai_swin`` or ``mae_2d``.

    Raises:
        ValueError: it is none of these.
    """
    return _locate(state)[0]


def from_monai_vit(state: State, patch: Triple, grid: Triple) -> Imported:
    """The weights of MONAI's `ViT`, alone or in a `UNETR`, or of its `MaskedAutoEncoderViT`, as those of our ViT.

    Our ViT needs learned positions, and one register where there is a class token.

    Args:
        state: the foreign tensors.
        patch: voxels of a patch along X, Y, Z that they were trained with.
        grid: patches of a crop along X, Y, Z that they were trained with.

    Raises:
        ValueError: another naming, patch or grid, or a block with parts that our ViT does not have.
    """
    tensors, left, names = _rename(state, _MONAI_VIT, "monai_vit", "monai_mae")
    weight = tensors["embed.weight"]
    if weight.dim() == 2:  # a perceptron, over (X, Y, Z, channels)
        if weight.shape[1] % math.prod(patch):
            raise ValueError(f"{weight.shape[1]} inputs of the embedding are no patches of {patch}")
        weight = weight.unflatten(1, (*patch, -1)).movedim(-1, 1)
    if weight.shape[2:] != patch:
        raise ValueError(f"the patch is {tuple(weight.shape[2:])}, not {patch}")
    tensors["embed.weight"] = weight.flatten(1)
    tensors["positions"] = tensors["positions"][0]
    if len(tensors["positions"]) != math.prod(grid):
        raise ValueError(f"{len(tensors['positions'])} positions are not those of a grid of {grid}")
    return Imported(tensors, left, names)


def from_monai_swin(state: State) -> Imported:
    """The weights of MONAI's `SwinUNETR`, or of a pre-training of its `SwinTransformer`, as those of our Swin.

    Patches must have been joined by MONAI's default way, ``merging``; names do not tell it from ``mergingv2``.

    Raises:
        ValueError: another naming, a 2D network, or parts that our Swin does not have.
    """
    _, prefix = _locate(state, "monai_swin")
    known = r"(patch_embed\.proj|layers\d\.0\.(downsample|blocks\.\d+\.(norm1|norm2|attn|mlp)))\..+"
    tensors, left, names = {}, [], {}
    for name, tensor in state.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and re.fullmatch(known, inner):
            ours = "swin." + re.sub(r"\.mlp\.fc(?=\d\.)", ".mlp.linear", inner)
            tensors[ours], names[ours] = tensor, name
        elif name.startswith(prefix) and re.match(r"layers|patch_embed", inner):
            raise ValueError(f"our Swin has no place for {name}")
        else:
            left.append(name)
    kernel = tensors["swin.patch_embed.proj.weight"]
    if kernel.dim() != 5:
        raise ValueError(f"the patch is {tuple(kernel.shape[2:])}, but a Swin on scans needs three axes")
    return Imported(_with_biases(tensors), left, names)


def from_mae_2d(state: State, patch: Triple, grid: Triple, channels: int = 1) -> Imported:
    """The weights of a 2D masked autoencoder (arXiv 2111.06377, in its authors' naming), inflated to our 3D ViT.

    The rows of the pictures become X, their columns Y. Along Z the patch's weights are spread and the positions
    repeated, so that a scan which is constant along Z is embedded as its slice was. Our ViT needs learned positions and
    one register. Its norms add 1e-5 to the variance where the foreign ones add 1e-6.

    Args:
        state: the foreign tensors.
        patch: the wanted one, in X and Y that of the pictures.
        grid: the wanted one; positions are interpolated to it.
        channels: of our scans; a scan that is the same in each is embedded as a grey picture was.

    Raises:
        ValueError: another naming or patch, positions of no square, or a block with parts that our ViT does not have.
    """
    tensors, left, names = _rename(state, _MAE_2D, "mae_2d")
    kernel = tensors["embed.weight"]
    if kernel.shape[2:] != patch[:2]:
        raise ValueError(f"the patch is {tuple(kernel.shape[2:])}, not {patch[:2]}")
    inflated = kernel.unsqueeze(-1).repeat(1, 1, 1, 1, patch[2]) / patch[2]
    tensors["embed.weight"] = resize_channels(inflated, channels).flatten(1)
    of_class, table = tensors["positions"][0].split([1, tensors["positions"].shape[1] - 1])
    side = math.isqrt(len(table))
    if side**2 != len(table):
        raise ValueError(f"{len(table)} positions are not those of a square of patches")
    tensors["positions"] = resize_positions(table, (side, side, 1), grid)
    tensors["registers"] = tensors["registers"] + of_class
    return Imported(tensors, left, names)


def to_monai_unetr(vit: ViT) -> dict[str, Tensor]:
    """A ViT's weights under the names of MONAI's `UNETR`, where they fill everything under ``vit.``.

    It takes them with ``proj_type="conv"``, ``qkv_bias=True`` and our channels, crop, width, heads and MLP.

    Raises:
        ValueError: rotary positions, registers, or not the patches of 16 and the 12 blocks that MONAI's UNETR has.
    """
    if vit.rotary:
        raise ValueError("rotary positions cannot be exported: MONAI's ViT has none")
    if vit.registers is not None:
        raise ValueError("registers cannot be exported: the ViT of MONAI's UNETR has none")
    if vit.patch != (16, 16, 16) or vit.depth != 12:
        raise ValueError(f"MONAI's UNETR has patches of 16 and 12 blocks, not {vit.patch} and {vit.depth}")
    names = {ours: theirs for theirs, ours in _MONAI_VIT.items()}
    tensors = {}
    for name, tensor in vit.state_dict().items():
        block, part, kind = _split(name)
        tensors[f"vit.{block}{names[part]}{kind}"] = tensor
    embed, positions = (f"vit.{names[part]}" for part in ("embed", "positions"))
    tensors[f"{embed}.weight"] = vit.embed.weight.detach().unflatten(1, (vit.channels, *vit.patch))
    tensors[positions] = vit.positions.detach()[None]  # the fixed ones, too
    for number in range(vit.depth):  # MONAI's blocks have this norm, and do not use it
        norm, one = f"vit.blocks.{number}.norm_cross_attn", torch.ones_like(vit.norm.weight)
        tensors |= {f"{norm}.weight": one, f"{norm}.bias": one * 0}
    return tensors


def to_monai_swin_unetr(swin: Swin) -> dict[str, Tensor]:
    """A Swin's weights under the names of MONAI's `SwinUNETR`, where they fill everything under ``swinViT.``.

    Raises:
        ValueError: not the patches of 2, or the four stages, each with a halving of its grid, of MONAI's SwinUNETR.
    """
    if swin.patch != (2, 2, 2):
        raise ValueError(f"MONAI's SwinUNETR has patches of 2, not {swin.patch}")
    if len(swin.widths) != 5:
        raise ValueError(f"MONAI's SwinUNETR halves the grid four times, not {len(swin.widths) - 1} times")
    return {name.replace("swin.", "swinViT.", 1): tensor for name, tensor in swin.state_dict().items()}


def _locate(names: Iterable[str], *wanted: str) -> tuple[str, str]:
    """The naming, one of the `wanted` if any are given, and the prefix of its names."""
    known = list(names)
    for naming, (first, *others) in _MARKS.items():
        found = next((match for name in known if (match := re.fullmatch(rf"((?:.*\.)?){first}", name))), None)
        if found and all(any(re.fullmatch(re.escape(found[1]) + mark, name) for name in known) for mark in others):
            if wanted and naming not in wanted:
                raise ValueError(f"these are weights of {naming}, not of {' or '.join(wanted)}")
            return naming, found[1]
    raise ValueError(f"{', '.join(known[:3])} and so on are names of none of {', '.join(_MARKS)}")


def _rename(state: State, names: Mapping[str, str], *wanted: str) -> Imported:
    """A foreign ViT's tensors under our names; a class token is given as registers (1, width)."""
    naming, prefix = _locate(state, *wanted)
    tensors, left, ours_to_theirs = {}, [], {}
    for name, tensor in state.items():
        inside, inner = name.startswith(prefix), name.removeprefix(prefix)
        if naming == "monai_mae":
            inner = re.sub(r"^blocks\.\d+(?=\.(weight|bias)$)", "norm", inner)  # stands last among the blocks
        block, part, kind = _split(inner)
        if inside and part in names:
            ours = f"{block}{names[part]}{kind}"
            tensors[ours], ours_to_theirs[ours] = tensor, name
        elif inside and block and "cross_attn" not in part:  # MONAI's blocks have such parts, and do not use them
            raise ValueError(f"our ViT has no place for {name}")
        else:
            left.append(name)
    if "registers" in tensors:
        tensors["registers"] = tensors["registers"][0]
    return Imported(_with_biases(tensors), left, ours_to_theirs)


def _split(name: str) -> tuple[str, str, str]:
    """A ViT's name as the block's prefix, the part, and ``.weight`` or ``.bias``; what is not there is empty."""
    match = re.fullmatch(r"(blocks\.\d+\.)?(.+?)(\.weight|\.bias)?", name)
    assert match
    return match[1] or "", match[2], match[3] or ""


def _with_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With zeros for the biases of queries, keys and values, which foreign networks may lack."""
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith("qkv.weight")}
    return {name.replace("weight", "bias"): weight.new_zeros(len(weight)) for name, weight in weights.items()} | tensors

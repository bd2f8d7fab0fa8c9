"""What the weights of another package tell of their own encoder: its settings, and how it sees a scan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.weights.convert import Imported, from_mae_2d, from_monai_swin, from_monai_vit, recognise

_USUAL_CROP = (96, 96, 96)  # where the weights do not tell it
_HEAD_WIDTH = 64  # of most ViTs; their weights do not tell it


class Foreign(NamedTuple):
    """A foreign encoder, in our terms.

    Attributes:
        naming: as `recognise` tells it.
        kind: ``vit`` or ``swin``.
        settings: of the encoder, as the weights tell them; but a ViT's heads, which they do not, are as most have them.
        crop: voxels along X, Y, Z that its positions are for.
        weights: its tensors under our names.
        made: our tensors that are not simply foreign ones, and how they came about.
    """

    naming: str
    kind: str
    settings: dict[str, Any]
    crop: Triple
    weights: Imported
    made: dict[str, str]


def known_group(groups: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The first group of tensors whose naming is known.

    Raises:
        ValueError: there is none.
    """
    wrong = ValueError("it holds no named tensors")
    for tensors in groups:
        try:
            recognise(tensors)
        except ValueError as error:
            wrong = error
        else:
            return tensors
    raise wrong


def understand(
    state: Mapping[str, Tensor], channels: int, patch: Triple | None = None, crop: Triple | None = None
) -> Foreign:
    """Put foreign weights under our names, and read off them what they tell.

    Args:
        state: the foreign tensors.
        channels: of the scans: those that the weights were trained with, or any number for weights of pictures.
        patch: voxels of a patch along X, Y, Z, needed where the weights do not tell it.
        crop: voxels of a crop along X, Y, Z, needed where the number of positions is not that of a cube.

    Raises:
        ValueError: an unknown naming, or another number of channels, another patch or another crop.
    """
    naming = recognise(state)
    if naming == "monai_swin":
        return _swin(naming, from_monai_swin(state), channels, crop)
    made = {}
    if naming == "mae_2d":
        x, y = _ending(state, r"patch_embed\.proj\.weight").shape[2:]
        patch, crop = patch or (x, y, x), crop or _USUAL_CROP
        grid = _grid(crop, patch)
        weights = from_mae_2d(state, patch, grid, channels)
        made["embed.weight"] = f"inflated from {(x, y)} to {patch}, {channels} channels instead of 3"
        made["positions"] = f"interpolated and repeated for a grid of {grid}"
        made["registers"] = "the class token with its position"
    else:
        patch = patch or _patch(_ending(state, r"patch_embeddings(\.1)?\.weight"), channels)
        grid = _cube(_ending(state, r"position_embeddings").shape[1]) if crop is None else _grid(crop, patch)
        crop = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
        weights = from_monai_vit(state, patch, grid)
    tensors = weights.tensors
    width, inputs = tensors["embed.weight"].shape
    if inputs != channels * patch[0] * patch[1] * patch[2]:
        raise ValueError(f"the weights are for {inputs // (patch[0] * patch[1] * patch[2])} channels, not {channels}")
    settings = {
        "patch": list(patch),
        "width": width,
        "depth": _count(tensors, r"blocks\.(\d+)\."),
        "heads": max(1, width // _HEAD_WIDTH),
        "mlp_ratio": _ratio(tensors["blocks.0.mlp.0.weight"]),
        "positions": "learned",
        "registers": len(tensors["registers"]) if "registers" in tensors else 0,
    }
    return Foreign(naming, "vit", settings, crop, weights, made | _biases(weights))


def _swin(naming: str, weights: Imported, channels: int, crop: Triple | None) -> Foreign:
    tensors = weights.tensors
    width, known, *patch = tensors["swin.patch_embed.proj.weight"].shape
    if known != channels:
        raise ValueError(f"the weights are for {known} channels, not {channels}")
    stages = range(1, _count(tensors, r"swin\.layers(\d+)\.") + 1)
    tables = [tensors[f"swin.layers{stage}.0.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    side = round(len(tables[0]) ** (1 / 3))
    if side**3 != len(tables[0]):
        raise ValueError("the attention's windows are no cubes")
    settings = {
        "patch": patch,
        "width": width,
        "depths": [_count(tensors, rf"swin\.layers{stage}\.0\.blocks\.(\d+)\.") for stage in stages],
        "heads": [table.shape[1] for table in tables],
        "window": (side + 1) // 2,
        "mlp_ratio": _ratio(tensors["swin.layers1.0.blocks.0.mlp.linear1.weight"]),
        "last_merge": f"swin.layers{stages[-1]}.0.downsample.reduction.weight" in tensors,
    }
    return Foreign(naming, "swin", settings, crop or _USUAL_CROP, weights, _biases(weights))


def _ending(state: Mapping[str, Tensor], pattern: str) -> Tensor:
    return next(tensor for name, tensor in state.items() if re.search(rf"(^|\.){pattern}$", name))


def _patch(embedding: Tensor, channels: int) -> Triple:
    """The patch of a convolution's kernel, or the cube that a linear layer's inputs are."""
    if embedding.dim() != 2:
        if embedding.dim() != 5:
            raise ValueError(f"the patch is {tuple(embedding.shape[2:])}, but a ViT on scans needs three axes")
        x, y, z = embedding.shape[2:]
        return x, y, z
    voxels = embedding.shape[1] / channels
    side = round(voxels ** (1 / 3))
    if side**3 != voxels:
        raise ValueError(
            f"{embedding.shape[1]} inputs of the embedding are no cubes of {channels} channels (vit.patch)"
        )
    return side, side, side


def _cube(positions: int) -> Triple:
    side = round(positions ** (1 / 3))
    if side**3 != positions:
        raise ValueError(f"{positions} positions are not those of a cube of patches, so it has to be told (crop)")
    return side, side, side


def _grid(crop: Triple, patch: Triple) -> Triple:
    if any(c < p or c % p for c, p in zip(crop, patch, strict=True)):
        raise ValueError(f"the crop {crop} is no whole number of patches {patch} (crop, vit.patch)")
    return crop[0] // patch[0], crop[1] // patch[1], crop[2] // patch[2]


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in the place of the pattern's group."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def _ratio(weight: Tensor) -> float:
    """The hidden width of an MLP over its width, so that ``int(width * ratio)`` is the hidden one again."""
    hidden, width = weight.shape
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def _biases(weights: Imported) -> dict[str, str]:
    return {name: "zero, as the file has none" for name in weights.tensors if name not in weights.names}

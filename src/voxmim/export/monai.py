"""Encoders as weights of MONAI's networks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from voxmim.errors import WeightsError
from voxmim.export.exported import Exported, cannot_export
from voxmim.files import atomic_write
from voxmim.networks.build import Encoder
from voxmim.networks.swin import Swin
from voxmim.networks.vit import SwiGLU, ViT
from voxmim.text import counted
from voxmim.weights.layouts.vit import MONAI_NAMES, split
from voxmim.weights.load import load_encoder

_KEPT = ("preparation", "window", "crop", "data", "imported", "init")  # of the metadata, in a safetensors file


def export_monai(run: Path, out: Path) -> Exported:
    """Write an encoder, a ViT for MONAI's `UNETR` or a Swin for its `SwinUNETR`, as ``.safetensors`` or ``.pt``.

    Raises:
        WeightsError: another file name, or an encoder that does not fit MONAI's network.
    """
    if out.suffix not in (".safetensors", ".pt"):
        raise WeightsError(f"{out}: the file name must end in .safetensors or .pt, which says how it is written.")
    encoder = load_encoder(run)
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    try:
        network, arguments, tensors = _for_monai(encoder, about)
    except ValueError as error:
        raise cannot_export(run, error) from None
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    kept = {key: about[key] for key in _KEPT if key in about}
    safe = out.suffix == ".safetensors"
    with atomic_write(out) as temporary:
        if safe:
            temporary.write_bytes(save(contiguous, metadata={"format": "pt", "from_voxmim": json.dumps(kept)}))
        else:
            torch.save(contiguous, temporary)
    reader = f"load_file({str(out)!r})" if safe else f"torch.load({str(out)!r}, weights_only=True)"
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    usage = [
        f"from monai.networks.nets import {network}",
        "from safetensors.torch import load_file" if safe else "import torch",
        f"network = {network}(in_channels={encoder.channels}, out_channels=CLASSES, {text})",
        f"network.load_state_dict({reader}, strict=False)",
    ]
    return Exported("the encoder for monai", "\n".join(usage))


def _for_monai(encoder: Encoder, about: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The name of MONAI's network, its arguments, and its tensors."""
    if isinstance(encoder, Swin):
        own = about["swin"]
        arguments = {
            "feature_size": own["width"],
            "depths": tuple(own["depths"]),
            "num_heads": tuple(own["heads"]),
            "window_size": own["window"],
            "mlp_ratio": own["mlp_ratio"],
            "use_v2": own.get("conv_blocks", False),
        }
        return "SwinUNETR", arguments, to_monai_swin_unetr(encoder)
    if isinstance(encoder, ViT):
        own = about["vit"]
        arguments = {
            "img_size": tuple(about["crop"]),
            "hidden_size": own["width"],
            "mlp_dim": int(own["width"] * own["mlp_ratio"]),
            "num_heads": own["heads"],
            "proj_type": "conv",
            "qkv_bias": True,
        }
        return "UNETR", arguments, to_monai_unetr(encoder)
    raise ValueError(f"MONAI has no network for the encoder {about['encoder']}; take a ViT or a Swin")


def to_monai_unetr(vit: ViT) -> dict[str, Tensor]:
    """A ViT's weights as all tensors under ``vit.`` of MONAI's `UNETR`.

    The UNETR needs ``proj_type="conv"``, ``qkv_bias=True`` and our channels, crop, width, heads and MLP.

    Raises:
        ValueError: the ViT has RoPE, gated MLPs or registers, or not MONAI's patches of 16 and 12 blocks.
    """
    if vit.rope:
        raise ValueError("MONAI's ViT has no RoPE")
    if isinstance(vit.blocks[0].mlp, SwiGLU):
        raise ValueError("MONAI's ViT has no gated MLPs (vit.swiglu)")
    if vit.registers is not None:
        raise ValueError("the ViT of MONAI's UNETR has no registers")
    if vit.patch != (16, 16, 16) or vit.depth != 12:
        raise ValueError(f"MONAI's UNETR has patches of 16 and 12 blocks, not {vit.patch} and {vit.depth}")
    names = {ours: theirs for theirs, ours in MONAI_NAMES.items()}
    tensors = {}
    for name, tensor in vit.state_dict().items():
        block, part, kind = split(name)
        tensors[f"vit.{block}{names[part]}{kind}"] = tensor
    embed, positions = (f"vit.{names[part]}" for part in ("embed", "positions"))
    tensors[f"{embed}.weight"] = vit.embed.weight.detach().unflatten(1, (vit.channels, *vit.patch))
    tensors[positions] = vit.positions.detach()[None]  # also if they are fixed
    for number in range(vit.depth):  # unused in MONAI's blocks
        norm, one = f"vit.blocks.{number}.norm_cross_attn", torch.ones_like(vit.norm.weight)
        tensors |= {f"{norm}.weight": one, f"{norm}.bias": one * 0}
    return tensors


def to_monai_swin_unetr(swin: Swin) -> dict[str, Tensor]:
    """A Swin's weights as all tensors under ``swinViT.`` of MONAI's `SwinUNETR`.

    Raises:
        ValueError: the Swin does not have MONAI's patches of 2, or four stages with a merge each.
    """
    if swin.patch != (2, 2, 2):
        raise ValueError(f"MONAI's SwinUNETR has patches of 2, not {swin.patch}")
    if len(swin.widths) != 5:
        raise ValueError(f"MONAI's SwinUNETR halves the grid four times, not {counted(len(swin.widths) - 1, 'time')}")
    return {name.replace("swin.", "swinViT.", 1): tensor for name, tensor in swin.state_dict().items()}

"""Pairs of equivalent networks: MONAI's, as a user would build it, and ours."""

from __future__ import annotations

import torch
from torch import nn

from voxmim.networks.build import build_encoder, build_segmentor
from voxmim.networks.resenc import ResEncSettings
from voxmim.networks.vit import ViTSettings
from voxmim.settings import Triple, UNETRSettings

VIT_B, VIT_TOY = ViTSettings(), ViTSettings(width=48, depth=4, heads=2)
WIDTHS, WIDTHS_TOY = (32, 64, 128, 256, 320), (4, 8, 8)


def unetr_pair(vit: ViTSettings, crop: Triple, classes: int) -> tuple[nn.Module, nn.Module]:
    """MONAI's UNETR and ours, with the same sizes."""
    from monai.networks.nets import UNETR

    torch.manual_seed(0)
    features = 4 if vit is VIT_TOY else 16
    theirs = UNETR(
        1, classes, crop, feature_size=features, hidden_size=vit.width, mlp_dim=4 * vit.width, num_heads=vit.heads,
        proj_type="conv", norm_name="instance", res_block=True,
    )  # fmt: skip
    return theirs, build_segmentor(build_encoder(vit, 1, crop), UNETRSettings(features), classes)


def unet_pair(widths: tuple[int, ...], crop: Triple, classes: int) -> tuple[nn.Module, nn.Module]:
    """MONAI's DynUNet with residual blocks, and our residual U-Net with the same widths."""
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    strides = [1, *[2] * (len(widths) - 1)]
    theirs = DynUNet(3, 1, classes, [3] * len(widths), strides, strides[1:], widths, res_block=True)
    settings = ResEncSettings(widths, (1,) * len(widths))
    return theirs, build_segmentor(build_encoder(settings, 1, crop), UNETRSettings(), classes)

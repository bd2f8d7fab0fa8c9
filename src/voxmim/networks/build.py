"""From settings to networks, and from a weights file's description back to settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from voxmim.networks.patches import Triple
from voxmim.networks.swin import Swin
from voxmim.networks.swin_unetr import SwinUNETR
from voxmim.networks.unet import ResidualEncoder, UNet
from voxmim.networks.unetr import UNETR
from voxmim.networks.vit import ViT
from voxmim.settings import EncoderSettings, Recipe, SwinSettings, UNETRSettings, UNetSettings, ViTSettings

Encoder = ViT | Swin | ResidualEncoder
Segmentor = UNETR | SwinUNETR | UNet

ANY = "any"  # the name of the one input of an encoder that may be given any channel
_SETTINGS = {"vit": ViTSettings, "swin": SwinSettings, "unet": UNetSettings}


def build_encoder(settings: EncoderSettings, channels: int, crop: Triple) -> Encoder:
    """The encoder that settings describe, for crops of (X, Y, Z) voxels."""
    values = asdict(settings)
    match settings:
        case ViTSettings():
            x, y, z = (c // p for c, p in zip(crop, settings.patch, strict=True))
            return ViT(channels=channels, grid=(x, y, z), **values)
        case SwinSettings():
            return Swin(channels=channels, **values)
        case UNetSettings():
            return ResidualEncoder(channels=channels, **values)


def build_segmentor(encoder: Encoder, settings: UNETRSettings, classes: int) -> Segmentor:
    """The encoder with the decoder that belongs to it; `classes` counts the background, and a U-Net asks no more."""
    match encoder:
        case ViT():
            return UNETR(encoder, classes, settings.feature_size, settings.stem, settings.direct)
        case Swin():
            return SwinUNETR(encoder, classes, settings.feature_size, settings.stem, settings.direct)
        case ResidualEncoder():
            return UNet(encoder, classes)


def describe_encoder(recipe: Recipe) -> dict[str, Any]:
    """What a weights file tells of the encoder: its kind, and under that name its settings."""
    return {"encoder": recipe.encoder, recipe.encoder: asdict(recipe.encoder_settings)}


def described_encoder(metadata: Mapping[str, Any]) -> tuple[str, EncoderSettings]:
    """The kind and the settings of the encoder that a weights file describes (the first files knew ViTs only)."""
    kind = metadata.get("encoder", "vit")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in metadata[kind].items()}
    return kind, _SETTINGS[kind](**values)


def described_inputs(metadata: Mapping[str, Any]) -> list[str]:
    """The channels that the encoder takes in: those of the scans, or `ANY` where it saw them one by one."""
    return list(metadata.get("inputs", metadata["preparation"]["channels"]))

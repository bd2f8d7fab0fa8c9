"""From settings to pretext networks, and from a weights file's description back to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from torch import Tensor

from voxmim.networks.build import Encoder
from voxmim.networks.patches import Triple
from voxmim.networks.swin import Swin
from voxmim.networks.unet import ResidualEncoder, UNet
from voxmim.networks.vit import ViT
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAE, MAEOutput
from voxmim.pretext.simclr import SimCLR
from voxmim.pretext.simmim import SimMIM
from voxmim.settings import MAESettings, MaskSettings, PretextSettings, Recipe, SimCLRSettings, SimMIMSettings

_SETTINGS = {"mae": MAESettings, "simmim": SimMIMSettings, "simclr": SimCLRSettings}


class Patched(Protocol):
    """What must be known of an encoder: the channels that it takes, and the voxels of a patch along X, Y, Z."""

    channels: int
    patch: Triple


class MaskedPretext(Protocol):
    """The face that MAE, SimMIM and the U-Net's MAE have in common; masks are bool over ``encoder.patch``."""

    @property
    def encoder(self) -> Patched: ...

    def __call__(self, volume: Tensor, mask: Tensor, *, present: Tensor | None = None) -> MAEOutput: ...

    def reconstruct(self, volume: Tensor, output: MAEOutput) -> Tensor: ...


def build_pretext(settings: PretextSettings, mask: MaskSettings, encoder: Encoder) -> MAE | DenseMAE | SimMIM | SimCLR:
    """The pretext network that settings describe, around an encoder.

    Raises:
        TypeError: the pretext cannot pre-train such an encoder.
    """
    match settings, encoder:
        case MAESettings(), ViT():
            return MAE(encoder, mask.ratio, **asdict(settings))
        case MAESettings(), ResidualEncoder():
            return DenseMAE(UNet(encoder, encoder.channels), encoder.patch, mask.ratio, settings.loss)
        case SimMIMSettings(), ViT() | Swin():
            return SimMIM(encoder, mask.unit or encoder.patch, mask.ratio, settings.loss)
        case SimCLRSettings(), _:
            return SimCLR(encoder, settings.projection_width, settings.hidden_width, settings.temperature)
    raise TypeError(f"{type(settings).__name__} are no settings of a pretext for a {type(encoder).__name__}")


def describe_pretext(recipe: Recipe) -> dict[str, Any]:
    """What a weights file tells of the pretext: its kind, under that name its settings, and those of the masks."""
    return {"pretext": recipe.pretext, recipe.pretext: asdict(recipe.pretext_settings), "mask": asdict(recipe.mask)}


def described_pretext(metadata: Mapping[str, Any]) -> tuple[str, PretextSettings, MaskSettings]:
    """The kind and the settings of the pretext that a weights file describes, and those of its masks."""
    kind, mask = metadata["pretext"], metadata["mask"]
    unit = None if mask["unit"] is None else tuple(mask["unit"])
    return kind, _SETTINGS[kind](**metadata[kind]), MaskSettings(**{**mask, "unit": unit})

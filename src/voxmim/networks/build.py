"""The encoders by name, and building networks from settings."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from voxmim.networks.base import Encoder, Segmentor
from voxmim.networks.resenc import ResEnc, ResEncSettings
from voxmim.networks.segresnet import SegResNet, SegResNetSettings
from voxmim.networks.swin import Swin, SwinSettings
from voxmim.networks.swin_unetr import SwinUNETR
from voxmim.networks.unet import ResidualEncoder, UNet, UNetSettings
from voxmim.networks.unetr import UNETR
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.settings import EncoderSettings, Triple, UNETRSettings

ANY = "any"  # the input channel of an encoder for single channels of any kind


class EncoderEntry(NamedTuple):
    """An encoder: its settings dataclass, its class, and the class of its segmentor."""

    settings: Any  # type[EncoderSettings]
    encoder: type[Encoder]
    segmentor: type[Segmentor]


ENCODERS = {
    "vit": EncoderEntry(ViTSettings, ViT, UNETR),
    "swin": EncoderEntry(SwinSettings, Swin, SwinUNETR),
    "unet": EncoderEntry(UNetSettings, ResidualEncoder, UNet),
    "resenc": EncoderEntry(ResEncSettings, ResEnc, UNet),
    "segresnet": EncoderEntry(SegResNetSettings, SegResNet, UNet),
}


def build_encoder(settings: EncoderSettings, channels: int, crop: Triple) -> Encoder:
    """Build the encoder of these settings for crops of (X, Y, Z) voxels."""
    encoder: Any = next(entry.encoder for entry in ENCODERS.values() if entry.settings is type(settings))
    return encoder(settings, channels, crop)


def build_segmentor(encoder: Encoder, settings: UNETRSettings, classes: int) -> Segmentor:
    """Build the segmentor of an encoder; `classes` includes the background."""
    segmentor: Any = next(entry.segmentor for entry in ENCODERS.values() if entry.encoder is type(encoder))
    return segmentor(encoder, classes, settings)


def has_patch_setting(settings: EncoderSettings) -> bool:
    """Whether the patch is a setting, so that pre-trained weights can be resized to another one."""
    return any(setting.name == "patch" for setting in fields(settings))  # type: ignore[arg-type]


def describe_encoder(name: str, settings: EncoderSettings) -> dict[str, Any]:
    """A weights file's metadata on the encoder: its name under "encoder", and its settings under its name."""
    return {"encoder": name, name: asdict(settings)}  # type: ignore[call-overload]


def described_encoder(metadata: Mapping[str, Any]) -> tuple[str, EncoderSettings]:
    """The name and the settings of the encoder in a weights file's metadata; the first files were all of ViTs."""
    name = metadata.get("encoder", "vit")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata[name].items()}
    return name, ENCODERS[name].settings(**values)


def described_inputs(metadata: Mapping[str, Any]) -> list[str]:
    """The encoder's input channels: those of the scans, or `ANY` if it was trained on single channels."""
    return list(metadata.get("inputs", metadata["preparation"]["channels"]))

"""Weights from other packages, and networks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from voxmim.export.exported import Exported
    from voxmim.networks.build import Encoder
    from voxmim.weights.load import LoadReport


def import_weights(
    file: Path | str,
    out: Path | str,
    like: Path | str | None = None,
    spacing: tuple[float, float, float] | None = None,
    intensity: Literal["ct", "mr"] | None = None,
    channels: Sequence[str] | None = None,
    licence: str = "",
    settings: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Convert another package's weights to a voxmim encoder.

    It recognises the networks of nnU-Net, nnssl and OpenMind (ResEnc, plain, Primus), MONAI (ViT, MAE, Swin UNETR,
    SegResNet), 3DINO and 2D MAEs by themselves; docs/weights.md lists them.

    Args:
        file: checkpoint, pickled by torch or safetensors.
        out: new folder for the encoder.
        like: store whose scans are like those the weights were trained on.
        spacing: voxel size in mm of the training scans. Default: that of the store, or else of the file.
        intensity: intensity rule of the training scans. Default: that of the store, or else of the file.
        channels: names of the channels. Default: those of the store, or else of the file.
        licence: licence note to keep with the weights. Default: that of a README.md beside the file.
        settings: settings that the file does not contain, such as vit.heads=12 or crop=[96,96,96].

    Returns:
        What happened to each tensor.

    Raises:
        VoxmimError: the file is not such a checkpoint, or too little of it fits.
    """
    from voxmim.weights.foreign import import_encoder

    scans = {"spacing": spacing, "intensity": intensity, "channels": channels}
    return import_encoder(Path(file), Path(out), scans, None if like is None else Path(like), settings, licence)


def export_weights(
    run: Path | str, out: Path | str, to: Literal["monai", "nnunet", "onnx", "monai-bundle", "hub"] = "monai"
) -> Exported:
    """Write a trained network for another program.

    The lines or commands that use it there are printed. docs/export.md shows each of them.

    Args:
        run: run folder of a training, or its weights file.
        out: file or folder to write.
        to: the format. An encoder for MONAI's UNETR (ViT) or SwinUNETR (Swin), .safetensors or .pt; an encoder (resenc)
            that nnU-Net fine-tunes, .pth; a segmentor for ONNX Runtime, .onnx, compared with torch: status 1 where the
            outputs differ by more than 1e-4; a segmentor as a MONAI bundle, a new folder, compared in the same way; a
            new folder in the style of Hugging Face's hub, with weights of any kind.

    Returns:
        What was written, how it is used, and its difference to torch where that was computed.

    Raises:
        VoxmimError: there are no such weights, the format has no counterpart of the network, or a package is missing.
    """
    from voxmim.export.formats import FORMATS

    return FORMATS[to](Path(run), Path(out))


def load_encoder(
    path: Path | str,
    crop: tuple[int, int, int] | None = None,
    patch: tuple[int, int, int] | None = None,
    channels: Sequence[str] | None = None,
) -> Encoder:
    """Load a pre-trained encoder as an ordinary module, to put into another network.

    Args:
        path: run folder of a pre-training, or its encoder.safetensors.
        crop: voxels of a crop along X, Y, Z, to adapt learned positions to. Default: that of the weights.
        patch: voxels of a patch along X, Y, Z, to resize the kernel to (ViT and Swin). Default: that of the weights.
        channels: names of the scans' channels; a channel that the weights do not know gets the mean of theirs.
            Default: those of the weights.

    Returns:
        The network. ``encoder.encode(volume)`` turns (B, C, X, Y, Z) into features (B, width, x, y, z) for every
        encoder; ``encoder(volume)`` gives a ViT's tokens (B, N, width), or the features of a Swin or U-Net.
        ``encoder.metadata`` says what a scan must be like (spacing, intensity, window, crop, channels).

    Raises:
        WeightsError: there is no encoder, or it cannot be adapted to this crop or patch.
    """
    from voxmim.weights.load import load_encoder

    return load_encoder(path, crop, patch, channels)

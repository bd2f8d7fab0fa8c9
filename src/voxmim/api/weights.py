"""Importing, exporting and loading weights."""

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
    SegResNet), 3DINO and 2D MAEs; docs/weights.md lists them.

    Args:
        file: checkpoint, a torch pickle or safetensors.
        out: new folder for the encoder.
        like: store whose scans were prepared like those that the weights were trained on.
        spacing: voxel size in mm of the training scans. Default: that of the store, or else of the file.
        intensity: intensity rule of the training scans. Default: that of the store, or else of the file.
        channels: names of the channels. Default: those of the store, or else of the file.
        licence: licence to store with the weights. Default: that of a README.md beside the file.
        settings: settings that the file does not contain, such as vit.heads=12 or crop=[96,96,96].

    Returns:
        A report on every tensor.

    Raises:
        VoxmimError: the file is not such a checkpoint, or too few of its tensors fit.
    """
    from voxmim.weights.foreign import import_encoder

    scans = {"spacing": spacing, "intensity": intensity, "channels": channels}
    return import_encoder(Path(file), Path(out), scans, None if like is None else Path(like), settings, licence)


def export_weights(
    run: Path | str, out: Path | str, to: Literal["monai", "nnunet", "onnx", "monai-bundle", "hub"] = "monai"
) -> Exported:
    """Write a trained network for another program.

    It prints the code or command that uses the network there (docs/export.md).

    Args:
        run: run folder of a training, or its weights file.
        out: file or folder to write.
        to: monai: an encoder for MONAI's UNETR (ViT) or SwinUNETR (Swin), .safetensors or .pt. nnunet: an encoder
            (resenc) to fine-tune with nnU-Net, .pth. onnx: a segmentor for ONNX Runtime, .onnx. monai-bundle: a
            segmentor as a new folder. hub: any weights, as a new folder for the Hugging Face Hub. onnx and monai-bundle
            are compared with torch; the exit status is 1 if outputs differ by more than 1e-4.

    Returns:
        What was written, how to use it, and its difference to torch if that was computed.

    Raises:
        VoxmimError: there are no such weights, the format does not support the network, or a package is missing.
    """
    from voxmim.export.formats import FORMATS

    return FORMATS[to](Path(run), Path(out))


def load_encoder(
    path: Path | str,
    crop: tuple[int, int, int] | None = None,
    patch: tuple[int, int, int] | None = None,
    channels: Sequence[str] | None = None,
) -> Encoder:
    """Load a trained encoder as an ordinary PyTorch module.

    Args:
        path: run folder of a pre-training or a fine-tuning, or its weights file (.safetensors).
        crop: voxels of a crop along X, Y, Z; learned positions are interpolated to it. Default: that of the weights.
        patch: voxels of a patch along X, Y, Z; the kernel is resized to it (ViT and Swin). Default: that of the
            weights.
        channels: names of the scans' channels; a channel that the weights do not have gets the mean of their kernels.
            Default: those of the weights.

    Returns:
        The network. ``encoder.encode(volume)`` returns features (B, width, x, y, z) of (B, C, X, Y, Z) for every
        encoder; ``encoder(volume)`` returns a ViT's tokens (B, N, width), or the features of a Swin or U-Net.
        ``encoder.metadata`` has the preparation of scans (spacing, intensity, window, crop, channels).

    Raises:
        WeightsError: there is no encoder, or it cannot be adapted to this crop or patch.
    """
    from voxmim.weights.load import load_encoder

    return load_encoder(path, crop, patch, channels)

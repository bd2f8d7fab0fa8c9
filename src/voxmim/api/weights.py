"""Weights that come from other packages, and go to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.networks.build import Encoder
from voxmim.weights.exchange import export_encoder, import_encoder, scans_like
from voxmim.weights.files import load_encoder
from voxmim.weights.load import Transfer

__all__ = ["Encoder", "export_weights", "import_weights", "load_encoder"]


def import_weights(
    file: Path | str,
    out: Path | str,
    like: Path | str | None = None,
    spacing: tuple[float, float, float] | None = None,
    intensity: str | None = None,
    channels: Sequence[str] | None = None,
    licence: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Transfer:
    """Make an encoder of another package's checkpoint: MONAI's ViT, MAE or Swin UNETR, or a 2D masked autoencoder.

    Args:
        file: the checkpoint, pickled by torch or safetensors.
        out: a new folder, which gets ``encoder.safetensors``.
        like: a store that the scans of these weights are like; what follows is told where they are not, or without it.
        spacing: voxel size in mm along X, Y, Z.
        intensity: ``ct`` or ``mr``.
        channels: the name of each channel.
        licence: a note on whose the weights are and what may be done with them; it goes along with them.
        settings: what the file does not tell, such as ``{"vit.heads": 12, "crop": [96, 96, 96]}``.

    Returns:
        the account of what moved.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    scans = scans_like(None if like is None else Path(like), spacing, intensity, channels)
    return import_encoder(Path(file), Path(out), scans, settings or {}, licence)


def export_weights(run: Path | str, out: Path | str) -> str:
    """Write an encoder under the names of MONAI's `UNETR` (a ViT) or `SwinUNETR` (a Swin).

    Args:
        run: a pre-training's run folder or weights file.
        out: a ``.safetensors`` or ``.pt`` file.

    Returns:
        the Python lines that make MONAI's network and load the weights.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return export_encoder(Path(run), Path(out))

"""The formats of ``voxmim export --to``: a new one is a function and an entry of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from voxmim.export.exported import Exported
from voxmim.export.hub import export_hub
from voxmim.export.monai_bundle import export_monai_bundle
from voxmim.export.onnx import export_onnx
from voxmim.weights.export import export_encoder


def _encoder(run: Path, out: Path, to: str) -> Exported:
    return Exported(f"the encoder for {to}", export_encoder(run, out, to))


FORMATS: dict[str, Callable[[Path, Path], Exported]] = {
    "monai": partial(_encoder, to="monai"),
    "nnunet": partial(_encoder, to="nnunet"),
    "onnx": export_onnx,
    "monai-bundle": export_monai_bundle,
    "hub": export_hub,
}

"""The formats of ``voxmim export --to``: a new one is a function and an entry of `FORMATS`."""

from collections.abc import Callable
from pathlib import Path

from voxmim.export.exported import Exported
from voxmim.export.hub import export_hub
from voxmim.export.monai import export_monai
from voxmim.export.monai_bundle import export_monai_bundle
from voxmim.export.nnunet import export_nnunet
from voxmim.export.onnx import export_onnx

FORMATS: dict[str, Callable[[Path, Path], Exported]] = {
    "monai": export_monai,
    "nnunet": export_nnunet,
    "onnx": export_onnx,
    "monai-bundle": export_monai_bundle,
    "hub": export_hub,
}

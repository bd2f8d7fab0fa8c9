"""What voxmim does, as functions: each takes paths and plain settings, writes a folder, and says where.

The command line calls these functions and nothing else. Each part is loaded when one of its functions is first used,
so that scans can be prepared without waiting for what trains networks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PARTS = {
    "datasets": ("data_sets", "download"),
    "scans": ("PrepareResult", "phantom", "prepare", "split", "verify"),
    "inspection": ("Inspection", "finding_rows", "inspect", "verdict"),
    "training": ("finetune", "plan", "pretrain"),
    "results": ("evaluate", "predict", "reconstruct", "result_rows"),
    "weights": ("Encoder", "export_weights", "import_weights", "load_encoder"),
    "studies": ("demo", "study"),
}
_HOMES = {name: part for part, names in _PARTS.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"voxmim.api.{_HOMES[name]}"), name)

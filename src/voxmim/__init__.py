"""voxmim: pre-train a 3D medical image encoder on the scans you have, fine-tune it on the few you labelled.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import getpass
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from voxmim.api.datasets import download
    from voxmim.api.inspection import inspect
    from voxmim.api.results import embed, evaluate, predict, reconstruct
    from voxmim.api.scans import phantom, prepare, read_volume, split, verify
    from voxmim.api.studies import demo, study
    from voxmim.api.training import finetune, plan, pretrain
    from voxmim.api.viewing import open_run
    from voxmim.api.weights import export_weights, import_weights, load_encoder

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user without a passwd entry (docker run -u): MONAI and torch need some name
    os.environ["LOGNAME"] = f"uid-{os.getuid()}"

__all__ = [
    "demo",
    "download",
    "embed",
    "evaluate",
    "export_weights",
    "finetune",
    "import_weights",
    "inspect",
    "load_encoder",
    "open_run",
    "phantom",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "read_volume",
    "reconstruct",
    "split",
    "study",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("voxmim")
    if name in __all__:
        return getattr(import_module("voxmim.api"), name)
    raise AttributeError(f"module 'voxmim' has no attribute '{name}'")

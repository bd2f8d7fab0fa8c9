"""voxmim: pre-train a 3D medical image encoder on the scans you have, fine-tune it on the few you labelled."""

import getpass
import os
from importlib.metadata import version

from voxmim.api.results import embed, evaluate, predict, reconstruct
from voxmim.api.scans import download, inspect, phantom, prepare, read_volume, split, verify
from voxmim.api.studies import demo, study
from voxmim.api.training import finetune, plan, pretrain
from voxmim.api.viewing import open_run
from voxmim.api.weights import export_weights, import_weights, load_encoder

try:
    getpass.getuser()
except (KeyError, OSError):  # a user without a passwd entry (docker run -u); MONAI and torch need a name
    os.environ["LOGNAME"] = f"uid-{os.getuid()}"

__version__ = version("voxmim")
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

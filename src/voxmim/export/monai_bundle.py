"""Segmentors as MONAI bundles, for `python -m monai.bundle run` without voxmim."""

import ast
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voxmim.errors import WeightsError, require
from voxmim.export.bundle_transforms import Network
from voxmim.export.comparison import example, input_shape, largest_difference, load_contiguous
from voxmim.export.exported import Exported, no_counterpart
from voxmim.files import atomic_folder
from voxmim.tasks.segmentation.inference import BATCH_VOXELS
from voxmim.tasks.segmentation.predict import CLEANED
from voxmim.tasks.segmentation.structures import Structures
from voxmim.weights.card import model_card

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_PACKAGES = ("fire", "nibabel", "pytorch-ignite", "scipy", "SimpleITK")  # that a bundle needs besides MONAI
_TRANSFORMS = "voxmim.export.bundle_transforms"


class Probabilities(nn.Module):
    """A segmentor with its activation, because windows are averaged as probabilities."""

    def __init__(self, network: nn.Module, structures: Structures) -> None:
        super().__init__()
        self.network, self.structures = network, structures

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.structures.activate(self.network(volume))


def export_monai_bundle(run: Path, out: Path) -> Exported:
    """Write a segmentor as a MONAI bundle, a new folder, and compare its network with torch.

    The folder has the network, its configuration, metadata, a model card, and our transforms as scripts.

    Raises:
        WeightsError: there is no segmentor, a part of it has no counterpart in `torch.export`, or the folder is not
            empty.
        MissingPackageError: the extra ``export`` is not installed.
    """
    require("export", "--to monai-bundle", "fire", "ignite")
    segmentor, metadata = load_contiguous(run)
    structures, shape = Structures.from_metadata(metadata), input_shape(metadata)
    network = Probabilities(segmentor, structures).eval()
    with atomic_folder(out, WeightsError(f"{out}: it exists already; name a new folder.")) as folder:
        for name in ("configs", "docs", "models", "scripts"):
            (folder / name).mkdir()
        try:
            program = torch.export.export(network, (example(shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch raises many kinds
            raise no_counterpart(run, "torch.export", error) from None
        torch.export.save(program, folder / "models" / "model.pt2")
        exported = Network(folder / "models" / "model.pt2")
        torch.save(exported.state_dict(), folder / "models" / "model.pt")
        copy_modules(_TRANSFORMS, folder / "scripts")
        for name, content in (("inference", inference(metadata)), ("metadata", about(metadata))):
            (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
        (folder / "docs" / "README.md").write_text(model_card("models/model.pt2", metadata), encoding="utf-8")
        difference = largest_difference(exported, network, shape)
    usage = (
        f"python -m monai.bundle run --bundle_root {out} --config_file {out}/configs/inference.json "
        "--dataset_dir SCANS --output_dir labels"
    )
    return Exported("the segmentor as a MONAI bundle", usage, difference)


def copy_modules(name: str, folder: Path) -> None:
    """Copy a module of voxmim and all modules that it imports into a folder, as a flat package."""
    (folder / "__init__.py").touch()
    waiting, seen = [name], {name}
    while waiting:
        module = waiting.pop()
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom))
        for used in {node.module or "" for node in nodes}:
            if used.startswith("voxmim."):
                text = text.replace(f"from {used} ", f"from scripts.{_last(used)} ")
                waiting += {used} - seen
                seen.add(used)
        (folder / f"{_last(module)}.py").write_text(text, encoding="utf-8")


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def inference(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/inference.json``: segments all NIfTI files of a folder."""
    preparation, structures = metadata["preparation"], Structures.from_metadata(metadata)
    prepare = {
        "_target_": f"scripts.{_last(_TRANSFORMS)}.PrepareScand",
        "keys": "image",
        "spacing": preparation["spacing"],
        "intensity": preparation["intensity"],
        "window": metadata["window"],
        "zero_background": preparation.get("zero_background", False),
        "channels": preparation["channels"],
    }
    restore = {
        "_target_": f"scripts.{_last(_TRANSFORMS)}.RestoreLabelsd",
        "keys": "pred",
        "values": structures.values,
        "members": structures.members if structures.regions else [],
        "cleaned": structures.values_of(metadata.get(CLEANED, ())),
    }
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "",
        "output_dtype": "$np.uint8",
        "resample": False,
        "separate_folder": False,
    }
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/labels'",
        "network_def": {
            "_target_": f"scripts.{_last(_TRANSFORMS)}.Network",
            "file": "$@bundle_root + '/models/model.pt2'",
            "device": "@device",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}, prepare],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': file} for file in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": metadata["crop"],
            "sw_batch_size": max(1, BATCH_VOXELS // math.prod(metadata["crop"])),
            "overlap": metadata["overlap"],
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": [restore, save]},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/metadata.json`` in MONAI's schema."""
    preparation, data = metadata["preparation"], metadata.get("data", {})
    is_ct, crop = preparation["intensity"] == "ct", metadata["crop"]
    structures = Structures.from_metadata(metadata)
    names = structures.names
    tensor = {"type": "image", "spatial_shape": crop, "dtype": "float32", "is_patch_data": True}
    image = {
        **tensor,
        "format": "hounsfield" if is_ct else "magnitude",
        "modality": preparation["intensity"].upper(),
        "num_channels": len(preparation["channels"]),
        "value_range": [0, 1] if is_ct else [-10, 10],
        "channel_def": _numbered(preparation["channels"]),
    }
    pred = {
        **tensor,
        "format": "probabilities",
        "num_channels": len(names),
        "value_range": [0, 1],
        "channel_def": _numbered(names),
    }
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by voxmim {version('voxmim')}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in _PACKAGES},
        "name": data.get("name") or "segmentor",
        "task": f"Segmentation of {', '.join(structures.parts)}",
        "description": "A segmentation network of 3D scans, trained by voxmim; docs/README.md describes it.",
        "authors": "unknown",
        "copyright": f"licence of the data: {data.get('licence') or 'unknown'}",
        "data_source": data.get("name") or "unknown",
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def _numbered(names: list[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}

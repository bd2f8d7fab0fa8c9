"""The plans of nnU-Net and nnssl: axes, strides, crop, and the preparation of scans.

They are read from the checkpoint, or from ``plans.json`` and ``dataset.json`` beside it or one folder up.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.weights.layouts.layout import Checkpoint


@dataclass
class Plans:
    """The plans of nnU-Net or nnssl along X, Y, Z; None if they are not known."""

    axes: Triple = (2, 1, 0)  # the network's axis for each of X, Y, Z
    strides: list[Triple] | None = None  # of the stages
    crop: Triple | None = None  # in voxels
    scans: dict[str, Any] | None = None  # spacing, intensity and channels, each of which may be empty
    statistics: tuple[float, float, tuple[float, float]] | None = None  # of CT: mean, std, and the window

    def turned(self, sizes: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Sizes along X, Y, Z from sizes in the network's order."""
        return sizes[self.axes[0]], sizes[self.axes[1]], sizes[self.axes[2]]

    def known_scans(self, channels: int) -> dict[str, Any]:
        """The known properties of the scans, with default names for the channels."""
        numbered = [f"channel {number}" for number in range(1, channels + 1)]
        return {"channels": numbered} | {key: value for key, value in (self.scans or {}).items() if value}


def read_plans(checkpoint: Checkpoint) -> Plans:
    """Read the plans of a checkpoint; raises ValueError if they are damaged or lack the statistics of CT."""
    own = checkpoint.config.get("nnssl_adaptation_plan") or {}
    training = checkpoint.config.get("init_args") or {}
    plans = own.get("pretrain_plan") or training.get("plans") or _json_beside(checkpoint.folder, "plans.json")
    data = training.get("dataset_json") or _json_beside(checkpoint.folder, "dataset.json")
    names = [training.get("configuration"), *_folder_parts(checkpoint.folder), "3d_fullres"]
    configurations = plans.get("configurations") or {}
    chosen = next((name for name in names if name in configurations), None) or next(iter(configurations), None)
    if chosen is None:
        return Plans()
    configuration = dict(configurations[chosen])
    while parent := configuration.pop("inherits_from", None):
        configuration = {**configurations[parent], **configuration}
    forward = list(plans.get("transpose_forward") or (0, 1, 2))
    found = Plans(axes=(forward.index(2), forward.index(1), forward.index(0)))
    architecture = (configuration.get("architecture") or own.get("architecture_plans") or {}).get("arch_kwargs") or {}
    strides = architecture.get("strides") or configuration.get("pool_op_kernel_sizes")
    found.strides = [found.turned(stride) for stride in strides] if strides else None
    patch = configuration.get("patch_size")
    found.crop = found.turned([int(size) for size in patch]) if patch is not None else None
    spacing = configuration.get("spacing")
    names_by_index = data.get("channel_names") or data.get("modality") or {}
    found.scans = {
        "spacing": found.turned([float(size) for size in spacing]) if spacing is not None else None,
        "channels": list(names_by_index.values()),
        "intensity": None,
    }
    schemes = set(configuration.get("normalization_schemes") or ())
    if schemes == {"CTNormalization"}:
        found.scans["intensity"] = "ct"
        found.statistics = _statistics(plans)
    elif schemes == {"ZScoreNormalization"}:
        found.scans["intensity"] = "mr"
    return found


def _statistics(plans: Mapping[str, Any]) -> tuple[float, float, tuple[float, float]]:
    channels = list((plans.get("foreground_intensity_properties_per_channel") or {}).values())
    if not channels or not {"mean", "std", "percentile_00_5", "percentile_99_5"} <= set(channels[0]):
        raise ValueError("its plans lack the mean, std and percentiles of the CT (foreground_intensity_properties)")
    if any(channel != channels[0] for channel in channels):
        raise ValueError("its plans standardise each channel of the CT in its own way, and voxmim has one window")
    low, high = float(channels[0]["percentile_00_5"]), float(channels[0]["percentile_99_5"])
    return float(channels[0]["mean"]), float(channels[0]["std"]), (low, high)


def _json_beside(folder: Path | None, name: str) -> dict[str, Any]:
    for place in (folder, folder.parent) if folder else ():
        if (place / name).is_file():
            try:
                return dict(json.loads((place / name).read_text()))
            except ValueError as error:
                raise ValueError(f"{name} beside it is damaged ({error})") from None
    return {}


def _folder_parts(folder: Path | None) -> list[str]:
    """Parts of names such as ``nnUNetTrainer__nnUNetPlans__3d_fullres``."""
    return [] if folder is None else [part for place in (folder, folder.parent) for part in place.name.split("__")]


def turn(tensor: Tensor, axes: Triple) -> Tensor:
    """A kernel with its last three axes permuted; other tensors are unchanged."""
    return tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.dim() == 5 else tensor


def about(checkpoint: Checkpoint) -> dict[str, str]:
    """The citations in an nnssl checkpoint."""
    citations = [entry for entry in checkpoint.config.get("citations") or () if isinstance(entry, Mapping)]
    texts = [text for entry in citations for text in entry.get("apa_citations") or entry.get("bibtex_citations") or ()]
    source = ", ".join(str(entry["name"]) for entry in citations if entry.get("name"))
    return {key: value for key, value in {"source": source, "citation": " ".join(texts)}.items() if value}

"""nnU-Net's networks: ResidualEncoderUNet (nnssl, OpenMind, ResEnc presets) and PlainConvUNet (TotalSegmentator).

nnU-Net reads scans as (z, y, x) and may transpose them again; kernels, strides and sizes are turned to (X, Y, Z). Its
plans say how scans were prepared: in the checkpoint, or in ``plans.json`` beside it or one folder up. CT was
standardised, which our window of 0 to 1 differs from by an affine map: that is folded into the first convolution.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from voxmim.networks.patches import Triple
from voxmim.networks.resenc import ResEnc
from voxmim.weights.layouts.layout import USUAL_CROP, Checkpoint, Imported, Layout, Request, check_channels, count

_LAYER = r"(conv|norm)\.(weight|bias)"
_RESIDUAL = rf"(stem\.convs\.0|stages\.\d+\.blocks\.\d+\.(conv[12]|skip\.[01]))\.{_LAYER}"
_PAPER = "Chen, Z. et al. (2023). Masked Image Modeling Advances 3D Medical Image Analysis. WACV."
_PLAIN = rf"stages\.\d+\.0\.convs\.\d+\.{_LAYER}"


@dataclass
class Plans:
    """What nnU-Net or nnssl planned, along X, Y, Z.

    Attributes:
        axes: the network's axis of each of X, Y, Z.
        strides: of the stages, or None where no plans say it.
        crop: voxels of a crop, or None.
        scans: any of spacing, intensity and channels.
        statistics: of CT: mean, std, and the window that is clipped to.
    """

    axes: Triple = (2, 1, 0)
    strides: list[Triple] | None = None
    crop: Triple | None = None
    scans: dict[str, Any] | None = None
    statistics: tuple[float, float, tuple[float, float]] | None = None

    def turned(self, sizes: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Sizes in the network's order along X, Y, Z."""
        return sizes[self.axes[0]], sizes[self.axes[1]], sizes[self.axes[2]]


def read_plans(checkpoint: Checkpoint) -> Plans:
    """The plans in a checkpoint or beside it; empty ones where there are none.

    Raises:
        ValueError: a JSON file is damaged, or the plans lack the statistics of CT.
    """
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


def _convert(checkpoint: Checkpoint, request: Request) -> Imported:
    """Our ResEnc."""
    plans = read_plans(checkpoint)
    residual = any(name.startswith("stem.") for name in checkpoint.inner())
    tensors, names, unused = {}, {}, []
    for name in checkpoint.tensors:
        inner = name.removeprefix(checkpoint.prefix)
        if ".all_modules." in name:  # the same tensors once more
            continue
        if name.startswith(checkpoint.prefix) and re.fullmatch(_RESIDUAL if residual else _PLAIN, inner):
            ours = inner.replace("stem.convs.0.", "stem.") if residual else inner.replace(".0.convs.", ".blocks.")
            tensors[ours], names[ours] = turn(checkpoint.tensors[name], plans.axes), name
        elif name.startswith(checkpoint.prefix) and re.match(r"(stem|stages)\.", inner):
            raise ValueError(f"our encoder has no place for {name}")
        else:
            unused.append(name)
    first = "stem.conv" if residual else "stages.0.blocks.0.conv"
    kernel = tensors[f"{first}.weight"]
    check_channels(kernel.shape[1], request)
    stages = range(count(tensors, r"stages\.(\d+)\."))
    convolution = "conv1.conv" if residual else "conv"
    openings = [tensors[f"stages.{stage}.blocks.0.{convolution}.weight"] for stage in stages]
    warnings = []
    if plans.strides is None and not residual:
        raise ValueError("names do not say its strides: put nnU-Net's plans.json beside it")
    if plans.strides is None:
        plans.strides = [(1, 1, 1), *[(2, 2, 2)] * (len(stages) - 1)]
        warnings.append("Every stage but the first is taken to halve the grid, as no plans say it (resenc.strides).")
    if len(plans.strides) != len(stages):
        raise ValueError(f"its plans have {len(plans.strides)} stages, but the network has {len(stages)}")
    settings: dict[str, Any] = {
        "widths": [len(opening) for opening in openings],
        "blocks": [count(tensors, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "strides": [list(stride) for stride in plans.strides],
        "kernels": [list(opening.shape[2:]) for opening in openings],
        "residual": residual,
    }
    wide = [name for name, tensor in tensors.items() if max(tensor.shape[2:], default=1) > 1]
    changes = dict.fromkeys(wide, "turned from (z, y, x)")
    for name in wide:
        if (bias := name.replace("weight", "bias")) not in tensors:
            tensors[bias], changes[bias] = kernel.new_zeros(len(tensors[name])), "zero, as the file has none"
    scans = {key: value for key, value in (plans.scans or {}).items() if value}
    if "channels" not in scans:
        scans["channels"] = [f"channel {number}" for number in range(1, kernel.shape[1] + 1)]
    if plans.statistics and request.intensity in (None, "ct"):
        mean, std, window = plans.statistics
        low, high = scans["window"] = request.window or window
        scale, shift = (high - low) / std, (low - mean) / std
        tensors |= fold_intensity(kernel, tensors[f"{first}.bias"], first, scale, shift)
        settings["pad_value"] = -shift / scale  # what the zeros around nnU-Net's volume are in our window
        changes[f"{first}.weight"] += f", folded with (HU - {mean:g}) / {std:g} for the window {low:g} to {high:g}"
        changes[f"{first}.bias"] = changes[f"{first}.weight"].partition(", ")[2]
    elif plans.statistics is None and scans.get("intensity") == "mr":
        warnings.append("nnU-Net takes the z-score of MR over the whole scan, and voxmim over its foreground.")
    x, y, z = request.crop or plans.crop or USUAL_CROP
    return Imported("resenc", settings, (x, y, z), tensors, names, changes, unused, scans, about(checkpoint), warnings)


def turn(tensor: Tensor, axes: Triple) -> Tensor:
    """A kernel with its three last axes in another order; other tensors as they are."""
    return tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.dim() == 5 else tensor


def fold_intensity(kernel: Tensor, bias: Tensor, name: str, scale: float, shift: float) -> dict[str, Tensor]:
    """The convolution `name` for volumes v, where kernel and bias were trained on ``scale * v + shift``."""
    return {f"{name}.weight": kernel * scale, f"{name}.bias": bias + shift * kernel.sum((1, 2, 3, 4))}


def about(checkpoint: Checkpoint) -> dict[str, str]:
    """The citations in an nnssl checkpoint."""
    citations = [entry for entry in checkpoint.config.get("citations") or () if isinstance(entry, Mapping)]
    texts = [text for entry in citations for text in entry.get("apa_citations") or entry.get("bibtex_citations") or ()]
    source = ", ".join(str(entry["name"]) for entry in citations if entry.get("name"))
    return {key: value for key, value in {"source": source, "citation": " ".join(texts)}.items() if value}


def to_nnunet(encoder: ResEnc, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint for nnU-Net's `PretrainedTrainer`, in the form of nnssl's.

    Args:
        encoder: the network.
        metadata: of its weights file.
    """
    settings, preparation = encoder.settings, metadata["preparation"]
    residual = settings.residual
    stages = len(settings.widths)
    weights: dict[str, Tensor] = {}
    for ours, tensor in encoder.state_dict().items():
        inner = ours.replace("stem.", "stem.convs.0.") if residual else ours.replace(".blocks.", ".0.convs.")
        turned = turn(tensor.detach().cpu(), (2, 1, 0)).contiguous()
        weights[f"encoder.{inner}"] = turned
        for module, place in (("conv", 0), ("norm", 1)):  # nnU-Net's networks list each tensor twice
            again = re.sub(rf"\b{module}(?=\.(weight|bias)$)", f"all_modules.{place}", inner)
            weights[f"encoder.{again}"] = turned
    architecture = {
        "n_stages": stages,
        "features_per_stage": list(settings.widths),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(kernel[::-1]) for kernel in settings.stage_kernels],
        "strides": [list(stride[::-1]) for stride in settings.stage_strides],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": list(settings.blocks),
        "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    crop, spacing = ([*metadata["crop"]][::-1], [*preparation["spacing"]][::-1])
    ct = preparation["intensity"] == "ct"
    configuration = {
        "data_identifier": "voxmim",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": spacing,
        "patch_size": crop,
        "normalization_schemes": ["CTNormalization" if ct else "ZScoreNormalization"] * encoder.channels,
        "use_mask_for_norm": [False] * encoder.channels,
    }
    plan: dict[str, Any] = {
        "dataset_name": metadata.get("data", {}).get("name", ""),
        "plans_name": "voxmim",
        "original_median_spacing_after_transp": spacing,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "voxmim",
    }
    if ct:  # as if nnU-Net's standardisation were our window
        low, high = metadata["window"]
        window = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
        plan["foreground_intensity_properties_per_channel"] = {str(i): window for i in range(encoder.channels)}
    stem = "encoder.stem" if residual else "encoder.stages.0"
    first = f"{stem}.convs.0" if residual else f"{stem}.0.convs.0"
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_weights": weights,
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
                "arch_kwargs": architecture,
                "arch_kwargs_requiring_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "pretrain_plan": plan,
            "pretrain_num_input_channels": encoder.channels,
            "recommended_downstream_patchsize": crop,
            "key_to_encoder": "encoder.stages",
            "key_to_stem": stem,
            "keys_to_in_proj": [f"{first}.conv", f"{first}.all_modules.0"],
            "key_to_lpe": None,
        },
        "citations": _citations(metadata),
    }


def _citations(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    papers = [{"type": "Pre-training", "name": "voxmim", "apa_citations": [_PAPER]}]
    imported = metadata.get("imported", {})
    if imported.get("citation"):
        papers.append({"type": "Weights", "name": imported["file"], "apa_citations": [imported["citation"]]})
    return papers


LAYOUTS = {
    "nnunet_resenc": Layout(
        "nnU-Net's ResidualEncoderUNet, also of nnssl",
        (r"stem\.convs\.0\.conv\.weight", r"stages\.0\.blocks\.0\.conv1\.conv\.weight"),
        _convert,
        axes=5,
    ),
    "nnunet_plain": Layout("nnU-Net's PlainConvUNet", (r"stages\.0\.0\.convs\.0\.conv\.weight",), _convert, axes=5),
}

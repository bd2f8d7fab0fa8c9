"""ResEnc encoders as checkpoints in nnssl's format, for fine-tuning in nnU-Net."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxmim.errors import WeightsError
from voxmim.export.exported import Exported, cannot_export
from voxmim.files import atomic_write
from voxmim.networks.resenc import ResEnc
from voxmim.weights.layouts.nnunet import fold_intensity
from voxmim.weights.layouts.plans import turn
from voxmim.weights.load import load_encoder

_PAPER = "Chen, Z. et al. (2023). Masked Image Modeling Advances 3D Medical Image Analysis. WACV."


def export_nnunet(run: Path, out: Path) -> Exported:
    """Write a ResEnc encoder as a ``.pth`` file.

    Raises:
        WeightsError: another file name, or an encoder that does not fit nnU-Net's network.
    """
    if out.suffix != ".pth":
        raise WeightsError(f"{out}: the file name must end in .pth, which says how it is written.")
    encoder = load_encoder(run)
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    if not isinstance(encoder, ResEnc):
        kind = about.get("encoder", "vit")
        raise cannot_export(run, f"nnU-Net has no network for the encoder {kind}; pre-train the encoder resenc")
    if 0 in encoder.settings.blocks:
        own = ",".join(str(max(1, blocks)) for blocks in encoder.settings.blocks)
        raise cannot_export(run, f"nnU-Net has no stage without blocks; pre-train with --set resenc.blocks=[{own}]")
    with atomic_write(out) as temporary:
        torch.save(_checkpoint(encoder, about), temporary)
    usage = [
        f"nnUNetv2_preprocess_like_nnssl -d DATASET -n {out.stem} -pc {out} -am like_pretrained",
        "nnUNetv2_train_pretrained DATASET 3d_fullres 0 -p PLANS -tr PretrainedTrainer  "
        f"# PLANS: ptPlans__{out.stem}...",
    ]
    return Exported("the encoder for nnunet", "\n".join(usage))


def _checkpoint(encoder: ResEnc, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint for nnU-Net's `PretrainedTrainer`."""
    settings, preparation = encoder.settings, metadata["preparation"]
    residual = settings.residual
    stages = len(settings.widths)
    state, weights = encoder.state_dict(), dict[str, Tensor]()
    first = encoder.input_weights[0].removesuffix(".weight")
    # nnU-Net pads with zeros, so our padding value becomes 0.
    state |= fold_intensity(state[f"{first}.weight"], state[f"{first}.bias"], first, 1.0, settings.pad_value)
    for ours, tensor in state.items():
        inner = ours.replace("stem.", "stem.convs.0.") if residual else ours.replace(".blocks.", ".0.convs.")
        turned = turn(tensor.detach().cpu(), (2, 1, 0)).contiguous()
        weights[f"encoder.{inner}"] = turned
        for module, place in (("conv", 0), ("norm", 1)):  # nnU-Net's networks list each tensor twice
            duplicate = re.sub(rf"\b{module}(?=\.(weight|bias)$)", f"all_modules.{place}", inner)
            weights[f"encoder.{duplicate}"] = turned
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
    if ct:  # makes nnU-Net's standardisation equal to our window, with our padding value at 0
        low, high = metadata["window"]
        mean = low + settings.pad_value * (high - low)
        window = {"mean": mean, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
        plan["foreground_intensity_properties_per_channel"] = {str(i): window for i in range(encoder.channels)}
    papers = [{"type": "Pre-training", "name": "voxmim", "apa_citations": [_PAPER]}]
    imported = metadata.get("imported", {})
    if imported.get("citation"):
        papers.append({"type": "Weights", "name": imported["file"], "apa_citations": [imported["citation"]]})
    stem = "encoder.stem" if residual else "encoder.stages.0"
    projection = f"{stem}.convs.0" if residual else f"{stem}.0.convs.0"
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
            "keys_to_in_proj": [f"{projection}.conv", f"{projection}.all_modules.0"],
            "key_to_lpe": None,
        },
        "citations": papers,
    }

"""nnU-Net's networks and our encoder give the same outputs with the same weights, on non-cubic volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voxmim.networks.resenc import ResEnc, ResEncSettings
from voxmim.weights.layouts import Checkpoint, Imported, Request, convert
from weights_helpers import assert_same, perturbed, random

pytest.importorskip("dynamic_network_architectures", reason="installed without its dependencies, see CONTRIBUTING.md")
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]  # (z, y, x)
SIZES: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 8],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": STRIDES,
    "num_classes": 2,
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
FULLRES: dict[str, Any] = {
    "patch_size": [32, 64, 96],
    "spacing": [3.0, 1.0, 0.5],
    "normalization_schemes": ["ZScoreNormalization"],
    "architecture": {"arch_kwargs": {"strides": STRIDES}},
}
STATISTICS = {"mean": 50.0, "std": 200.0, "percentile_00_5": -900.0, "percentile_99_5": 600.0}
CT = {
    "configurations": {"3d_fullres": FULLRES | {"normalization_schemes": ["CTNormalization"]}},
    "foreground_intensity_properties_per_channel": {"0": STATISTICS},
}


def residual(channels: int = 1, **changes: Any) -> nn.Module:
    return perturbed(ResidualEncoderUNet(channels, n_blocks_per_stage=[1, 2, 2], **SIZES | changes))


def plain(channels: int = 1, **changes: Any) -> nn.Module:
    return perturbed(PlainConvUNet(channels, n_conv_per_stage=[2, 2, 1], **SIZES | changes))


def imported(network: nn.Module, plans: dict[str, Any], request: Request | None = None) -> Imported:
    _, weights = convert([Checkpoint(network.state_dict(), {"init_args": {"plans": plans}})], request or Request())
    return weights


def our_encoder(weights: Imported, channels: int = 1) -> ResEnc:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in weights.settings.items()}
    encoder = ResEnc(ResEncSettings(**settings), channels).eval()
    encoder.load_state_dict(weights.tensors)
    return encoder


def their_maps(network: nn.Module, volume: Tensor, order: tuple[int, int, int] = (2, 1, 0)) -> list[Tensor]:
    """The feature maps of nnU-Net's encoder, whose axis i is our axis order[i], transposed to (X, Y, Z)."""
    back = [2 + order.index(axis) for axis in range(3)]
    maps = network.encoder(volume.permute(0, 1, *(2 + axis for axis in order)))  # type: ignore[operator]
    return [features.permute(0, 1, *back) for features in maps]


@pytest.mark.parametrize("make", [residual, plain])
def test_nnunets_encoders_give_the_same_feature_maps_only_with_transposed_axes(make: Any) -> None:
    network, volume = make(), random(1, 1, 64, 32, 96)
    weights = imported(network, {"configurations": {"3d_fullres": FULLRES}})
    ours = our_encoder(weights).maps(volume)
    assert_same(ours, their_maps(network, volume))
    unturned = {name: t.transpose(2, 4) if t.dim() == 5 else t for name, t in weights.tensors.items()}
    not_transposed = {"strides": tuple(STRIDES), "kernels": tuple(SIZES["kernel_sizes"])}
    encoder = ResEnc(ResEncSettings(**{**our_settings(weights), **not_transposed}), 1).eval()
    encoder.load_state_dict(unturned)
    assert_same(encoder.maps(volume.transpose(2, 4)), [features.transpose(2, 4) for features in ours])
    assert encoder.encode(volume).shape != ours[-1].shape or not torch.allclose(
        encoder.encode(volume), ours[-1], atol=0.1
    )


def our_settings(weights: Imported) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in weights.settings.items()}


def test_cubic_kernels_are_transposed() -> None:
    """Features, and not sizes, show a missing transposition here."""
    cubes = {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
    network, volume = residual(**cubes), random(1, 1, 32, 32, 32)
    plans = {"configurations": {"3d_fullres": FULLRES | {"architecture": {"arch_kwargs": cubes}}}}
    weights = imported(network, plans)
    encoder = our_encoder(weights)
    assert_same(encoder.maps(volume), their_maps(network, volume))
    encoder.load_state_dict({name: t.transpose(2, 4) if t.dim() == 5 else t for name, t in weights.tensors.items()})
    assert not torch.allclose(encoder.maps(volume)[0], their_maps(network, volume)[0], atol=0.1)


def test_a_transposition_in_the_plans_is_inverted() -> None:
    network, volume = residual(), random(1, 1, 64, 96, 32)
    weights = imported(
        network, {"configurations": {"3d_fullres": FULLRES}, "transpose_forward": [1, 0, 2]}
    )  # (y, z, x)
    assert (weights.scans["spacing"], weights.crop) == ((0.5, 3.0, 1.0), (96, 32, 64))
    assert_same(our_encoder(weights).maps(volume), their_maps(network, volume, (1, 2, 0)))


def test_the_preparation_of_scans_is_read_from_the_plans() -> None:
    weights = imported(residual(2), {"configurations": {"3d_fullres": FULLRES}})
    assert (weights.scans["spacing"], weights.scans["intensity"]) == ((0.5, 1.0, 3.0), "mr")
    assert weights.scans["channels"] == ["channel 1", "channel 2"]
    assert weights.crop == (96, 64, 32)
    assert weights.settings["strides"] == [[1, 1, 1], [2, 2, 1], [2, 2, 2]]
    assert weights.settings["kernels"][0] == [3, 3, 1]
    assert all(name.startswith(("decoder.", "encoder.")) for name in weights.unused)
    assert not [name for name in weights.unused if "all_modules" in name or name.startswith("encoder.")]


def test_ct_standardisation_is_folded_into_the_first_convolution() -> None:
    for network in (residual(), plain()):
        for window in (None, (-900.0, 600.0), (-1000.0, 1000.0)):
            weights = imported(network, CT, Request(window=window))
            low, high = weights.scans["window"]
            assert (low, high) == (window or (-900.0, 600.0))
            windowed = torch.rand(1, 1, 64, 32, 96, generator=torch.Generator().manual_seed(3))
            standardised = (windowed * (high - low) + low - 50.0) / 200.0
            assert_same(our_encoder(weights).maps(windowed), their_maps(network, standardised))


def test_strides_and_citations_are_read_from_nnssl_checkpoints() -> None:
    cubes = {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
    network = residual(**cubes)
    pretraining = {"spacing": [1, 1, 1], "patch_size": [32, 32, 32], "normalization_schemes": ["ZScoreNormalization"]}
    config = {
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None},
            "pretrain_plan": {"configurations": {"onemmiso": pretraining}},
        },
        "citations": [{"type": "method", "name": "MAE", "apa_citations": ["Wald, T. (2024)."]}],
    }
    name, weights = convert([Checkpoint(network.state_dict(), config)], Request())
    assert name == "nnunet_resenc"
    assert weights.about == {"source": "MAE", "citation": "Wald, T. (2024)."}
    assert any("is taken to halve the grid" in warning for warning in weights.warnings)
    volume = random(1, 1, 32, 16, 48)
    assert_same(our_encoder(weights).maps(volume), their_maps(network, volume))


def test_plans_next_to_the_file_are_read_also_in_the_old_format(tmp_path: Path) -> None:
    old = {"patch_size": [32, 64, 96], "spacing": [3, 1, 0.5], "normalization_schemes": ["ZScoreNormalization"],
           "pool_op_kernel_sizes": STRIDES}  # fmt: skip
    plans = {
        "configurations": {"2d": {}, "3d_low": old, "3d_cascade": {"inherits_from": "3d_low", "spacing": [6, 1, 1]}}
    }
    fold = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_cascade" / "fold_0"
    fold.mkdir(parents=True)
    (fold.parent / "plans.json").write_text(json.dumps(plans))
    (fold.parent / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}}))
    network = plain()
    _, weights = convert([Checkpoint(network.state_dict(), folder=fold)], Request())
    assert weights.scans == {"spacing": (1.0, 1.0, 6.0), "channels": ["T1"], "intensity": "mr"}
    volume = random(1, 1, 64, 32, 96)
    assert_same(our_encoder(weights).maps(volume), their_maps(network, volume))


@pytest.mark.parametrize(
    ("network", "plans", "match"),
    [
        (plain, {}, "names do not say its strides: put nnU-Net's plans.json beside it"),
        (residual, {"configurations": CT["configurations"]}, "its plans lack the mean, std and percentiles of the CT"),
        (
            residual,
            CT | {"foreground_intensity_properties_per_channel": {"0": STATISTICS, "1": STATISTICS | {"mean": 1.0}}},
            "standardise each channel of the CT in its own way",
        ),
        (
            residual,
            {"configurations": {"3d_fullres": {"pool_op_kernel_sizes": STRIDES[:2]}}},
            "its plans have 2 stages, but the network has 3",
        ),
    ],
)
def test_unsupported_plans_are_refused(network: Any, plans: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        imported(network(), plans)


def test_damaged_plans_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(ValueError, match=r"plans\.json beside it is damaged"):
        convert([Checkpoint(residual().state_dict(), folder=tmp_path)], Request())


def test_other_kinds_of_blocks_are_refused() -> None:
    state = residual().state_dict() | {"encoder.stages.0.blocks.0.conv3.conv.weight": torch.ones(4, 4, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"no place for encoder\.stages\.0\.blocks\.0\.conv3\.conv\.weight"):
        convert([Checkpoint(state)], Request())

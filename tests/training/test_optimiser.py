from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from voxmim.networks.swin import Swin, SwinSettings
from voxmim.networks.swin_unetr import SwinUNETR
from voxmim.networks.unet import ResidualEncoder, UNet, UNetSettings
from voxmim.networks.unetr import UNETR
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.pretext.dense_mae import DenseMAE
from voxmim.pretext.mae import MAE, MAESettings
from voxmim.settings import MaskSettings, Training, UNETRSettings
from voxmim.training.optimiser import learning_rate, make_optimiser

BETAS = (0.9, 0.95)


def make_vit(positions: str = "sincos") -> ViT:
    return ViT(ViTSettings((4, 4, 4), 12, 3, 2, position_embedding=positions), 1, (8, 8, 8))  # type: ignore[arg-type]


def groups_by_name(network: nn.Module, training: Training) -> dict[str, dict[str, float]]:
    """Weight decay and learning rate scale of every parameter, each in exactly one group."""
    optimiser = make_optimiser(network, training, BETAS)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    pairs = [(names[id(p)], group) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(name for name, _ in pairs) == sorted(names.values())
    return {name: {"decay": group["weight_decay"], "scale": group["scale"]} for name, group in pairs}


def test_the_learning_rate_agrees_with_torchs_schedulers() -> None:
    training = Training(steps=50, warmup=0.2, lr=3e-4)
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=3e-4)
    rise = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / 10, 1.0, total_iters=9)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40)
    for step in range(10):
        assert learning_rate(step, training) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        rise.step()
    for group in optimiser.param_groups:
        group["lr"] = 3e-4
    for step in range(10, 50):
        assert learning_rate(step, training) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        fall.step()
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 1), lr=st.floats(1e-6, 1))
def test_the_learning_rate_increases_linearly_to_its_peak_and_then_decreases(
    steps: int, warmup: float, lr: float
) -> None:
    training = Training(steps=steps, warmup=warmup, lr=lr)
    rates = [learning_rate(step, training) for step in range(steps)]
    peak = max(1, round(warmup * steps)) - 1
    assert rates[peak] == pytest.approx(lr)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert rates[: peak + 1] == pytest.approx([lr * (step + 1) / (peak + 1) for step in range(peak + 1)])
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_the_learning_rate_ends_near_zero() -> None:
    training = Training(steps=1000, lr=1.0)
    assert learning_rate(999, training) == pytest.approx(0.5 * (1 + math.cos(math.pi * 899 / 900)))
    assert learning_rate(999, training) < 1e-5


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_only_matrices_have_weight_decay(positions: str) -> None:
    network = MAE(make_vit(positions), MAESettings(12, 1, 2), MaskSettings())
    groups = groups_by_name(network, Training(weight_decay=0.07))
    for name, parameter in network.named_parameters():
        exempt = name in ("mask_token", "encoder.positions") or name.endswith("bias") or "norm" in name
        assert groups[name]["decay"] == (0.0 if exempt else 0.07), name
        assert exempt or parameter.ndim > 1
    assert ("encoder.positions" in groups) == (positions == "learned")
    assert {group["scale"] for group in groups.values()} == {1.0}


def test_each_layer_of_the_encoder_learns_more_slowly_than_the_next() -> None:
    network = UNETR(make_vit("learned"), 3, UNETRSettings(4))
    groups = groups_by_name(network, Training(layer_decay=0.5))
    for name, group in groups.items():
        layer = (
            1.0 if not name.startswith("encoder.") or name.startswith("encoder.norm.")
            else 0.5 ** (3 - int(name.split(".")[2])) if name.startswith("encoder.blocks.")
            else 0.5**4
        )  # fmt: skip
        assert group["scale"] == pytest.approx(layer), name
    assert {"encoder.embed.weight", "encoder.positions"} <= {
        n for n, group in groups.items() if group["scale"] == 0.0625
    }


@pytest.mark.parametrize("last_merge", [False, True])
def test_the_layers_of_a_swin_are_its_blocks_each_with_the_following_merging(last_merge: bool) -> None:
    encoder = Swin(SwinSettings((2, 2, 2), 4, (2, 1), (1, 2), window=2, last_merge=last_merge))
    groups = groups_by_name(SwinUNETR(encoder, 2, UNETRSettings(4)), Training(layer_decay=0.5))
    block = {"layers1.0.blocks.0": 3, "layers1.0.blocks.1": 2, "layers1.0.downsample": 2, "layers2.0.blocks.0": 1}
    block |= {"layers2.0.downsample": 1, "patch_embed": 4}
    layers = set()
    for name, group in groups.items():
        layer = next((part for part in block if name.startswith(f"encoder.swin.{part}.")), "")
        assert (layer == "") == (not name.startswith("encoder.")), name
        assert group["scale"] == pytest.approx(0.5 ** block.get(layer, 0)), name
        layers.add(layer)
    assert layers == {"", *block} - (set() if last_merge else {"layers2.0.downsample"})


@pytest.mark.parametrize("dense", [False, True])
def test_the_layers_of_a_unet_are_its_residual_blocks(dense: bool) -> None:
    encoder = ResidualEncoder(UNetSettings(4, (1, 2, 1)))
    network: nn.Module = UNet(encoder, 1)
    if dense:  # the encoder is inside another network
        network = DenseMAE(encoder, MAESettings(), MaskSettings())
    groups = groups_by_name(network, Training(layer_decay=0.5))
    distance = {"stages.0.0": 4, "stages.1.0": 3, "stages.1.1": 2, "stages.2.0": 1}
    for name, group in groups.items():
        layer = next((part for part in distance if f"encoder.{part}." in name), "")
        assert (layer == "") == ("encoder." not in name), name
        assert group["scale"] == pytest.approx(0.5 ** distance.get(layer, 0)), name


def test_each_group_starts_at_its_fraction_of_the_learning_rate() -> None:
    training = Training(lr=2e-3, layer_decay=0.5)
    optimiser = make_optimiser(UNETR(make_vit(), 2, UNETRSettings(4)), training, BETAS)
    assert isinstance(optimiser, torch.optim.AdamW)
    for group in optimiser.param_groups:
        assert group["lr"] == pytest.approx(2e-3 * group["scale"])
        assert group["betas"] == BETAS


def test_a_frozen_parameter_is_left_out() -> None:
    network = make_vit()
    network.embed.requires_grad_(False)
    parameters = [p for group in make_optimiser(network, Training(), BETAS).param_groups for p in group["params"]]
    assert len(parameters) == len(list(network.parameters())) - 2
    assert all(parameter.requires_grad for parameter in parameters)

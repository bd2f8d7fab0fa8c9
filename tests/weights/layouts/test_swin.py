"""MONAI's Swin transformer and ours give the same outputs with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from voxmim.networks.swin import Swin, SwinSettings
from voxmim.weights.layouts import Checkpoint, Imported, Request, convert
from weights_helpers import assert_same, perturbed, random

SIZES = {"depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 2), "mlp_ratio": 2.0}


def monai_swin(**changes: Any) -> nn.Module:
    return perturbed(SwinTransformer(1, 12, (2, 2, 2), (2, 2, 2), **SIZES | changes))


def imported(state: dict[str, Tensor]) -> Imported:
    layout, weights = convert([Checkpoint(state)], Request(1))
    assert layout == "monai_swin"
    return weights


def our_swin(weights: Imported) -> Swin:
    settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in weights.settings.items()}
    swin = Swin(SwinSettings(**settings), 1).eval()
    swin.load_state_dict(weights.tensors)
    return swin


@pytest.mark.parametrize(("old", "prefix"), [(False, "swinViT."), (True, "module."), (True, "module.swin_vit.")])
@pytest.mark.parametrize("bias", [False, True])
def test_monais_swin_gives_the_same_features_with_new_and_old_names(old: bool, prefix: str, bias: bool) -> None:
    foreign = monai_swin(qkv_bias=bias)
    state = {f"{prefix}{name}": tensor for name, tensor in foreign.state_dict().items()}
    if old:
        state = {name.replace("mlp.linear", "mlp.fc"): tensor for name, tensor in state.items()}
    heads = {f"{prefix}norm.weight": torch.ones(192), "module.rotation_head.weight": torch.ones(4, 192)}
    weights = imported(state | heads)
    assert weights.unused == list(heads)
    volume = random(1, 1, 32, 32, 32)
    assert_same(our_swin(weights).maps(volume), foreign(volume))


def test_the_old_names_are_those_that_monai_loads() -> None:
    state = {
        f"module.{name}".replace("mlp.linear", "mlp.fc"): tensor for name, tensor in monai_swin().state_dict().items()
    }
    foreign = SwinUNETR(1, 2, feature_size=12, window_size=2, **SIZES)  # type: ignore[arg-type]
    foreign.load_from({"state_dict": state})
    theirs, ours = imported(foreign.state_dict()), imported(state)
    assert theirs.tensors.keys() == ours.tensors.keys()
    assert_same(list(ours.tensors.values()), [theirs.tensors[name] for name in ours.tensors])
    assert {name.split(".")[0] for name in theirs.unused} >= {"encoder1", "decoder5", "out"}


def test_a_swin_with_convolutions_gives_the_same_features() -> None:
    """SwinUNETR-V2, as in VoCo."""
    foreign, volume = monai_swin(use_v2=True), random(1, 1, 64, 32, 96)
    weights = imported({f"swinViT.{name}": tensor for name, tensor in foreign.state_dict().items()})
    assert (weights.settings["conv_blocks"], weights.unused) == (True, [])
    assert_same(our_swin(weights).maps(volume), foreign(volume))


def test_the_names_in_monais_weights_of_50000_scans_are_known() -> None:
    foreign, volume = monai_swin(), random(1, 1, 64, 32, 96)
    state = {f"encoder.{name}".replace("s1.0.", "s1.0.0.").replace("s2.0.", "s2.0.0."): tensor
             for name, tensor in foreign.state_dict().items()}  # fmt: skip
    state = {name.replace("s3.0.", "s3.0.0.").replace("s4.0.", "s4.0.0."): tensor for name, tensor in state.items()}
    weights = imported(state | {"encoder.mask_token": torch.zeros(1, 1, 12)})
    assert weights.unused == ["encoder.mask_token"]
    assert_same(our_swin(weights).maps(volume), foreign(volume))


@pytest.mark.parametrize("changes", [{"patch_norm": True}, {"spatial_dims": 2}])
def test_an_unsupported_swin_is_refused(changes: dict[str, Any]) -> None:
    sizes = {"window_size": (2, 2), "patch_size": (2, 2)} if "spatial_dims" in changes else {}
    settings = {"window_size": (2, 2, 2), "patch_size": (2, 2, 2)} | SIZES | sizes | changes
    state = SwinTransformer(1, 12, **settings).state_dict()
    with pytest.raises(ValueError, match=r"no place for patch_embed\.norm|needs three axes"):
        convert([Checkpoint(state)], Request(1))

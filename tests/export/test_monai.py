"""Encoders exported to other packages give the same outputs in their networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from safetensors import safe_open
from torch import nn

from conftest import TINY_TRAINING, Tiny
from voxmim import api
from voxmim.errors import WeightsError
from voxmim.export.monai import to_monai_swin_unetr, to_monai_unetr
from voxmim.networks.swin import Swin, SwinSettings
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.recipe import make_recipe, write_recipe
from voxmim.weights.files import read_weights
from voxmim.weights.layouts import Checkpoint, Request, convert
from voxmim.weights.load import load_encoder
from weights_helpers import assert_same, perturbed, random

SWIN: dict[str, Any] = {"depths": (2, 1, 1, 1), "mlp_ratio": 2.0}


def our_vit(**changes: Any) -> ViT:
    settings = {"patch": (16, 16, 16), "depth": 12, "position_embedding": "learned"} | changes
    return perturbed(ViT(ViTSettings(width=24, heads=3, mlp_ratio=1.5, **settings), 2, (32, 16, 48)))  # type: ignore[return-value]


def our_swin(**changes: Any) -> Swin:
    settings = {"heads": (1, 2, 2, 2), "last_merge": True} | SWIN | changes
    return perturbed(Swin(SwinSettings((2, 2, 2), 12, window=2, **settings)))  # type: ignore[return-value]


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_monai_unetr_with_our_vit_gives_the_same_hidden_states(positions: str) -> None:
    vit = our_vit(position_embedding=positions).double()
    foreign = UNETR(2, 3, (32, 16, 48), 4, 24, 36, 3, qkv_bias=True).eval().double()
    missing, unexpected = foreign.load_state_dict(to_monai_unetr(vit), strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith("vit.")]
    volume = random(1, 2, 32, 16, 48).double()
    last, states = foreign.vit(volume)
    assert_same(vit.hidden_states(volume, [*range(1, 13)]), [*states[:11], last])
    _, back = convert([Checkpoint(foreign.state_dict())], Request(2, crop=(32, 16, 48)))
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in vit.state_dict().items())


def test_monai_swin_unetr_with_our_swin_gives_the_same_feature_maps() -> None:
    swin = our_swin()
    foreign = SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 2, 2), window_size=2, **SWIN).eval()
    missing, unexpected = foreign.load_state_dict(to_monai_swin_unetr(swin), strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith("swinViT.")]
    volume = random(1, 1, 32, 32, 32)
    assert_same(foreign.swinViT(volume, True), swin.maps(volume))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rope": True}, "RoPE"),
        ({"registers": 2}, "registers"),
        ({"depth": 3}, "12 blocks"),
        ({"patch": (8, 8, 8)}, "patches of 16"),
    ],
)
def test_a_vit_without_a_counterpart_in_monai_unetr_is_not_exported(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_monai_unetr(our_vit(**changes))


@pytest.mark.parametrize("changes", [{"depths": (1, 1), "heads": (1, 1)}, {"last_merge": False}])
def test_a_swin_without_a_counterpart_in_monai_swin_unetr_is_not_exported(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="halves the grid four times"):
        to_monai_swin_unetr(our_swin(**changes))


# Through the command line


def pretrained(tiny: Tiny, folder: Path, **settings: Any) -> Path:
    write_recipe(folder / "recipe.yaml", make_recipe({"precision": "32", "pretrain": TINY_TRAINING, **settings}))
    return api.pretrain(tiny.store, folder / "run", folder / "recipe.yaml", {"pretrain.steps": 1})


def network_of_printed_lines(printed: str) -> nn.Module:
    """The network that the printed lines build."""
    lines = printed[printed.index("from monai") :].split("done:")[0]
    names: dict[str, Any] = {"CLASSES": 3}
    exec(lines, names)
    return names["network"].eval()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_the_printed_lines_load_a_vit_into_monais_unetr(
    tiny: Tiny, tmp_path: Path, run_voxmim: Callable[..., tuple[int, str, str]], ending: str
) -> None:
    vit = {"patch": [16, 16, 16], "width": 48, "depth": 12, "heads": 4, "mlp_ratio": 1.5}
    mae = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    run = pretrained(tiny, tmp_path, vit=vit, crop=[32, 16, 32], mae=mae)
    network = network_of_printed_lines(run_voxmim("export", run, tmp_path / f"encoder{ending}", "--to", "monai")[1])
    volume = torch.randn(1, 1, 32, 16, 32)
    assert network(volume).shape == (1, 3, 32, 16, 32)
    assert_same(network.vit(volume)[0], load_encoder(run)(volume))


def test_the_printed_lines_load_a_swin_into_monais_swin_unetr_and_keep_the_licence(
    tiny: Tiny, tmp_path: Path, run_voxmim: Callable[..., tuple[int, str, str]]
) -> None:
    swin = {"patch": [2, 2, 2], "width": 12, "depths": [1, 1, 1, 1], "heads": [1, 2, 2, 2], "window": 2,
            "last_merge": True, "mlp_ratio": 2.0}  # fmt: skip
    run = pretrained(tiny, tmp_path, encoder="swin", pretext="simmim", swin=swin, crop=[64, 32, 32])
    out = tmp_path / "encoder.safetensors"
    network = network_of_printed_lines(run_voxmim("export", run, out)[1])
    volume = torch.randn(1, 1, 64, 32, 32)
    assert network(volume).shape == (1, 3, 64, 32, 32)
    assert_same(network.swinViT(volume, True)[-1], load_encoder(run)(volume))
    with safe_open(str(out), framework="pt") as file:
        about = json.loads(file.metadata()["from_voxmim"])
    assert about["data"] == read_weights(run / "encoder.safetensors")[1]["data"]
    assert api.import_weights(out, tmp_path / "back", tiny.store, settings={"crop": [64, 32, 32]}).fraction == 1.0
    assert_same(load_encoder(tmp_path / "back")(volume), load_encoder(run)(volume))


def test_encoders_without_a_network_in_monai_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    unet = {"width": 4, "blocks": [1, 1, 1]}
    run = pretrained(tiny, tmp_path, encoder="unet", unet=unet, crop=[16, 16, 8])
    with pytest.raises(WeightsError, match="cannot be exported, since MONAI has no network for the encoder unet"):
        api.export_weights(run, tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors or \.pt"):
        api.export_weights(run, tmp_path / "encoder.onnx")
    assert not (tmp_path / "encoder.pt").exists()

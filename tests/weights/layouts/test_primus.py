"""nnssl's Primus and our ViT give the same outputs with the same weights, on a non-cubic volume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from voxmim.networks.vit import ViT, ViTSettings
from voxmim.weights.layouts import Checkpoint, Imported, Request, convert
from weights_helpers import assert_same, perturbed, random

pytest.importorskip("dynamic_network_architectures", reason="installed without its dependencies, see CONTRIBUTING.md")

CROP = (64, 32, 96)
PLAN = {
    "pretrain_plan": {
        "configurations": {
            "onemmiso": {
                "patch_size": [96, 32, 64],
                "spacing": [1, 1, 1],
                "normalization_schemes": ["ZScoreNormalization"],
            }
        }
    }
}


class _NoPictures:
    """Provides empty torchvision modules: timm needs them for images only, and wheels are for other torch builds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None: ...


@pytest.fixture(scope="module")
def primus() -> type[nn.Module]:
    finder: Any = _NoPictures()
    sys.meta_path.insert(0, finder)
    try:
        architectures = pytest.importorskip("dynamic_network_architectures.architectures.primus")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    return architectures.Primus


def imported(network: nn.Module) -> Imported:
    checkpoint = Checkpoint(network.state_dict(), {"nnssl_adaptation_plan": PLAN})
    name, weights = convert([checkpoint], Request(heads=2))
    assert name == "primus"
    return weights


def our_vit(weights: Imported) -> ViT:
    settings = {**weights.settings, "patch": tuple(weights.settings["patch"])}
    vit = ViT(ViTSettings(**settings), 1, weights.crop).eval()
    vit.load_state_dict(weights.tensors)
    return vit


def features(network: Any, volume: Tensor) -> Tensor:
    """The normalised tokens as a feature map (B, width, X, Y, Z over the patch)."""
    patches = network.down_projection(volume.permute(0, 1, 4, 3, 2))
    tokens = patches.flatten(2).transpose(1, 2)
    extra = 0
    if network.register_tokens is not None:
        extra = network.register_tokens.shape[1]
        tokens = torch.cat([network.register_tokens.expand(len(tokens), -1, -1), tokens], 1)
    encoded, _ = network.eva(tokens)
    return encoded[:, extra:].transpose(1, 2).unflatten(2, patches.shape[2:]).permute(0, 1, 4, 3, 2)


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2, "init_values": 0.1}])
def test_primus_gives_the_same_features_only_with_transposed_axes(
    primus: type[nn.Module], changes: dict[str, Any]
) -> None:
    network: Any = perturbed(primus(1, 48, (8, 8, 16), 2, 2, 2, (96, 32, 64), **changes))  # width 48: two heads of 24
    weights = imported(network)
    assert (weights.crop, weights.settings["patch"]) == (CROP, [16, 8, 8])
    volume = random(1, 1, *CROP)
    vit = our_vit(weights)
    assert_same(vit.encode(volume), features(network, volume))
    swapped = network.down_projection(volume.permute(0, 1, 4, 3, 2))
    assert swapped.shape[2:] == (12, 4, 4)
    vit.positions.data = vit.positions.data.reshape(4, 4, 12, 48).transpose(0, 1).reshape(-1, 48)
    assert not torch.allclose(vit.encode(volume), features(network, volume), atol=1e-2)


def test_parts_that_our_vit_does_not_have_are_refused(primus: type[nn.Module]) -> None:
    network = primus(1, 48, (8, 8, 16), 2, 2, 2, (96, 32, 64), scale_attn_inner=True)
    with pytest.raises(ValueError, match=r"our ViT has no place for eva\.blocks\.0\.attn\.norm\.weight"):
        imported(network)

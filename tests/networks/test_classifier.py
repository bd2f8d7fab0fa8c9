from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from voxmim.errors import WeightsError
from voxmim.networks.build import build_encoder, describe_encoder
from voxmim.networks.classifier import Classifier
from voxmim.recipe import make_recipe
from voxmim.weights.files import holds, save_weights
from voxmim.weights.load import load_classifier

CROP = (16, 8, 16)
KINDS: dict[str, dict[str, Any]] = {
    "vit": {"patch": [4, 2, 4], "width": 12, "depth": 2, "heads": 2, "registers": 2, "rope": True},
    "swin": {"patch": [2, 2, 2], "width": 4, "depths": [1, 2], "heads": [1, 2], "window": 2},
    "unet": {"width": 4, "blocks": [1, 2, 1], "max_width": 6},
}


def classifier_of(kind: str) -> tuple[Classifier, dict[str, Any]]:
    recipe = make_recipe({"encoder": kind, "pretext": "simclr", "crop": CROP, kind: KINDS[kind]})
    metadata = {
        "preparation": {"channels": ["a", "b"], "spacing": [1.0, 1.0, 1.0], "intensity": "mr"},
        "crop": CROP,
        **describe_encoder(kind, recipe.encoder_settings),
        "kind": "classifier",
    }
    return Classifier(build_encoder(recipe.encoder_settings, 2, CROP), 3), {**metadata, "classes": ["x", "y", "z"]}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_linear_in_the_mean_of_the_deepest_feature_map(kind: str) -> None:
    network, _ = classifier_of(kind)
    volume = torch.randn(2, 2, *CROP)
    network.eval().fit_scale(torch.randn(5, 1, 2, *CROP))
    deepest = network.eval().encoder.encode(volume)
    mean = torch.stack([one.flatten(1).mean(1) for one in deepest])
    unit = (mean - mean.mean(1, keepdim=True)) / torch.sqrt(mean.var(1, correction=0, keepdim=True) + 1e-5)
    torch.testing.assert_close(network.pooled(volume), unit)
    scaled = (unit - network.middle) / network.spread
    expected = functional.linear(scaled, network.head.weight, network.head.bias)
    torch.testing.assert_close(network(volume), expected)
    assert expected.shape == (2, 3)
    assert expected.softmax(1).sub(1 / 3).abs().max() < 0.2  # logits are 0 before training


def test_features_are_standardised_over_the_given_volumes() -> None:
    network, _ = classifier_of("vit")
    volumes = torch.randn(20, 1, 2, *CROP) * torch.linspace(0.5, 2, 20).reshape(-1, 1, 1, 1, 1, 1)
    network.fit_scale(volumes)
    scaled = (network.pooled(volumes[:, 0]) - network.middle) / network.spread
    torch.testing.assert_close(scaled.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
    assert 0.5 < scaled.std(0).min() <= scaled.std(0).max() < 1.1
    before = network.spread.clone()
    network.fit_scale(volumes[:1].expand(3, *volumes.shape[1:]))  # the features of one scan have no variance
    assert network.spread.max() < 1e-3 * before.min()
    assert torch.isfinite(network(volumes[0])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_saving_and_loading(kind: str, tmp_path: Path) -> None:
    network, metadata = classifier_of(kind)
    network.fit_scale(torch.randn(5, 1, 2, *CROP))
    save_weights(tmp_path / "classifier.safetensors", network, metadata)
    loaded, loaded_metadata = load_classifier(tmp_path)
    volume = torch.randn(1, 2, *CROP)
    torch.testing.assert_close(loaded(volume), network.eval()(volume), rtol=0, atol=0)
    assert loaded_metadata["classes"] == ["x", "y", "z"]
    assert not loaded.training


def test_files_with_a_classifier_are_recognised(tmp_path: Path) -> None:
    network, metadata = classifier_of("vit")
    assert not holds(tmp_path, "classifier")
    save_weights(tmp_path / "classifier.safetensors", network, metadata)
    assert holds(tmp_path, "classifier")
    assert holds(tmp_path / "classifier.safetensors", "classifier")
    save_weights(tmp_path / "x.safetensors", network, metadata | {"kind": "encoder"})
    assert not holds(tmp_path / "x.safetensors", "classifier")
    with pytest.raises(WeightsError, match="these are encoder weights, but classifier weights are needed here"):
        load_classifier(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"no classifier\.safetensors here; give the run folder of a fine-tuning"):
        load_classifier(tmp_path / "nothing")

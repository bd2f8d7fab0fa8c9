"""Encoders exported to nnU-Net: its network loads them as its trainer does, and gives the same features."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from voxmim import api
from voxmim.errors import WeightsError
from voxmim.networks.build import describe_encoder
from voxmim.networks.resenc import ResEnc, ResEncSettings
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.weights.files import save_weights
from voxmim.weights.foreign import import_encoder
from voxmim.weights.load import load_encoder
from weights_helpers import assert_same, perturbed, random

pytest.importorskip("dynamic_network_architectures", reason="installed without its dependencies, see CONTRIBUTING.md")

CROP = (64, 32, 96)
RESIDUAL = ResEncSettings((4, 8, 8), (1, 2, 1), ((1, 1, 1), (2, 1, 2), (2, 2, 2)), ((3, 1, 3), (3, 3, 3), (3, 3, 3)))
PLAIN = ResEncSettings((4, 8), (2, 2), residual=False, pad_value=0.25)


def save_encoder(folder: Path, settings: ResEncSettings, intensity: str) -> ResEnc:
    encoder = perturbed(ResEnc(settings, 1))
    preparation = {"spacing": [1.0, 1.5, 3.0], "intensity": intensity, "channels": ["image"]}
    metadata: dict[str, Any] = {"kind": "encoder", "preparation": preparation, "crop": list(CROP)}
    metadata |= {"window": [-200.0, 300.0], "data": {"name": "scans", "licence": "CC0"}}
    save_weights(folder / "encoder.safetensors", encoder, metadata | describe_encoder("resenc", settings))
    return encoder  # type: ignore[return-value]


def nnunet_network(checkpoint: dict[str, Any], channels: int = 1) -> Any:
    """nnU-Net's network for the plan, with stem and stages loaded strictly, as by its `PretrainedTrainer`."""
    plan = checkpoint["nnssl_adaptation_plan"]
    architecture = plan["architecture_plans"]
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["arch_kwargs_requiring_import"]:
        arguments[name] = arguments[name] and pydoc.locate(arguments[name])
    make: Any = pydoc.locate(architecture["arch_class_name"])
    network = make(input_channels=channels, num_classes=3, deep_supervision=False, **arguments).eval()
    for theirs, ours in ((network.key_to_encoder, plan["key_to_encoder"]), (network.key_to_stem, plan["key_to_stem"])):
        part = {
            name.removeprefix(f"{ours}."): tensor
            for name, tensor in checkpoint["network_weights"].items()
            if name.startswith(f"{ours}.")
        }
        network.get_submodule(theirs).load_state_dict(part)
    return network


@pytest.mark.parametrize("intensity", ["ct", "mr"])
@pytest.mark.parametrize("settings", [RESIDUAL, PLAIN])
def test_nnunets_network_with_our_encoder_gives_the_same_features(
    tmp_path: Path, settings: ResEncSettings, intensity: str
) -> None:
    encoder = save_encoder(tmp_path, settings, intensity)
    exported = api.export_weights(tmp_path, tmp_path / "ours.pth", to="nnunet")
    assert "nnUNetv2_preprocess_like_nnssl -d DATASET -n ours -pc" in exported.usage
    checkpoint = torch.load(tmp_path / "ours.pth", weights_only=True)
    network, volume = nnunet_network(checkpoint), random(1, 1, *CROP)
    shifted = (volume - settings.pad_value).permute(0, 1, 4, 3, 2)
    theirs = [features.permute(0, 1, 4, 3, 2) for features in network.encoder(shifted)]
    assert_same(encoder.maps(volume), theirs)
    (pretraining,) = checkpoint["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"].values()
    assert (pretraining["spacing"], pretraining["patch_size"]) == ([3.0, 1.5, 1.0], [96, 32, 64])
    for name in checkpoint["nnssl_adaptation_plan"]["keys_to_in_proj"]:
        assert torch.equal(checkpoint["network_weights"][f"{name}.weight"], network.state_dict()[f"{name}.weight"])


@pytest.mark.parametrize(("settings", "intensity"), [(RESIDUAL, "ct"), (RESIDUAL, "mr"), (PLAIN, "ct")])
def test_exporting_and_importing_an_encoder_changes_nothing(
    tmp_path: Path, settings: ResEncSettings, intensity: str
) -> None:
    encoder = save_encoder(tmp_path / "run", settings, intensity)
    api.export_weights(tmp_path / "run", tmp_path / "ours.pth", to="nnunet")
    report = import_encoder(tmp_path / "ours.pth", tmp_path / "back", {"channels": ["image"]})
    assert report.fraction == 1.0
    imported: Any = load_encoder(tmp_path / "back")
    torch.testing.assert_close(dict(imported.state_dict()), dict(encoder.state_dict()))
    assert imported.metadata["preparation"]["spacing"] == [1.0, 1.5, 3.0]
    assert imported.metadata["preparation"]["intensity"] == intensity
    assert imported.metadata["crop"] == list(CROP)
    assert imported.metadata["resenc"]["pad_value"] == pytest.approx(settings.pad_value)
    if intensity == "ct":
        assert imported.metadata["window"] == [-200.0, 300.0]
    assert "Masked Image Modeling" in imported.metadata["imported"]["citation"]


def test_nnunets_own_trainer_loads_the_encoder(tmp_path: Path) -> None:
    """Needs an nnU-Net that fine-tunes nnssl's checkpoints, which release 2.8.1 does not."""
    trainers = pytest.importorskip("nnunetv2.training.nnUNetTrainer.pretraining.pretrainedTrainer")
    encoder = save_encoder(tmp_path, RESIDUAL, "mr")
    api.export_weights(tmp_path, tmp_path / "ours.pth", to="nnunet")
    checkpoint = torch.load(tmp_path / "ours.pth", weights_only=True)
    plan, network = checkpoint["nnssl_adaptation_plan"], nnunet_network(checkpoint)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    loaded, _ = trainers.PretrainedTrainer.load_pretrained_weights(
        network, str(tmp_path / "ours.pth"), 1, 1, [96, 32, 64], [96, 32, 64],
        plan["key_to_encoder"], plan["key_to_stem"], tuple(plan["keys_to_in_proj"]), plan["key_to_lpe"],
    )  # fmt: skip
    volume = random(1, 1, *CROP)
    theirs = [features.permute(0, 1, 4, 3, 2) for features in loaded.encoder(volume.permute(0, 1, 4, 3, 2))]
    assert_same(encoder.maps(volume), theirs)


def test_encoders_without_a_network_in_nnunet_are_refused(tmp_path: Path) -> None:
    settings = ViTSettings((8, 8, 8), 24, 1, 3)
    preparation = {"spacing": [1.0] * 3, "intensity": "mr", "channels": ["T1"]}
    about = {"kind": "encoder", "preparation": preparation, "window": [0.0, 1.0], "crop": [16] * 3}
    vit = {"encoder": "vit", "vit": vars(settings)}
    save_weights(tmp_path / "encoder.safetensors", ViT(settings, 1, (16, 16, 16)), about | vit)
    with pytest.raises(WeightsError, match="nnU-Net has no network for the encoder vit; pre-train the encoder resenc"):
        api.export_weights(tmp_path, tmp_path / "ours.pth", to="nnunet")
    save_encoder(tmp_path / "tiny", ResEncSettings((4, 8), (0, 1)), "mr")
    with pytest.raises(WeightsError, match=r"no stage without blocks; pre-train with --set resenc\.blocks=\[1,1\]"):
        api.export_weights(tmp_path / "tiny", tmp_path / "ours.pth", to="nnunet")
    with pytest.raises(WeightsError, match=r"the file name must end in \.pth"):
        api.export_weights(tmp_path, tmp_path / "ours.safetensors", to="nnunet")
    assert not (tmp_path / "ours.pth").exists()

"""Weights on disk: loading restores what was saved, and mismatches are named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from voxmim.errors import WeightsError
from voxmim.networks.build import build_encoder, build_segmentor, described_encoder
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.settings import UNETRSettings
from voxmim.weights.files import find_weights, read_weights, save_weights
from voxmim.weights.load import load_encoder, load_segmentor

VIT = ViTSettings(patch=(4, 4, 4), width=24, depth=2, heads=2)
CROP = (8, 8, 12)
METADATA: dict[str, Any] = {
    "kind": "encoder",
    "preparation": {"spacing": [1.0, 1.0, 2.0], "intensity": "ct", "channels": ["CT"]},
    "window": [-175.0, 250.0],
    "crop": list(CROP),
    "vit": asdict(VIT),
}


def make_vit(settings: ViTSettings = VIT, seed: int = 0, crop: tuple[int, int, int] = CROP) -> ViT:
    torch.manual_seed(seed)
    encoder = build_encoder(settings, 1, crop)
    assert isinstance(encoder, ViT)
    return encoder.eval()


def saved_encoder(folder: Path, settings: ViTSettings = VIT) -> Path:
    path = folder / "encoder.safetensors"
    save_weights(path, make_vit(settings), METADATA | {"vit": asdict(settings)})
    return path


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("as_run", [True, False])
def test_a_loaded_encoder_has_the_same_outputs(tmp_path: Path, positions: str, as_run: bool) -> None:
    settings = replace(VIT, position_embedding=positions)
    path = saved_encoder(tmp_path, settings)
    encoder = load_encoder(tmp_path if as_run else str(path))
    volume = torch.randn(2, 1, *CROP)
    assert torch.equal(encoder(volume), make_vit(settings)(volume))
    assert not encoder.training
    assert encoder.metadata["preparation"] == METADATA["preparation"]


@pytest.mark.parametrize("stem", [True, False])
def test_a_loaded_segmentor_has_the_same_outputs(tmp_path: Path, stem: bool) -> None:
    settings = UNETRSettings(feature_size=4, stem=stem)
    network = build_segmentor(make_vit(), settings, classes=4).eval()
    about = METADATA | {"kind": "segmentor", "unetr": asdict(settings), "labels": {"1": "liver", "3": "spleen"}}
    save_weights(tmp_path / "segmentor.safetensors", network, about)
    loaded, metadata = load_segmentor(tmp_path)
    volume = torch.randn(1, 1, *CROP)
    assert torch.equal(loaded(volume), network(volume))
    assert not loaded.training
    assert metadata["labels"] == {"1": "liver", "3": "spleen"}


def test_metadata_are_loaded_with_the_versions(tmp_path: Path) -> None:
    tensors, metadata = read_weights(saved_encoder(tmp_path))
    assert set(metadata.pop("versions")) == {"voxmim", "torch", "monai"}
    assert metadata == json.loads(json.dumps(METADATA))
    assert described_encoder(metadata) == ("vit", VIT)
    assert tensors.keys() == make_vit().state_dict().keys()


def test_weights_are_written_atomically(tmp_path: Path) -> None:
    path = saved_encoder(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, make_vit(seed=1), METADATA | {"note": object()})
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path.with_name("MODEL_CARD.md"), path]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = saved_encoder(tmp_path)
    for length in (0, 4, path.stat().st_size // 2, path.stat().st_size - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(path.read_bytes()[:length])
        with pytest.raises(WeightsError, match=r"cut\.safetensors: this is not a complete safetensors file"):
            load_encoder(cut)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        WeightsError, match=r"foreign\.safetensors: these weights lack voxmim's metadata; .* 'voxmim import'"
    ):
        load_encoder(tmp_path / "foreign.safetensors")


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = saved_encoder(tmp_path)
    with pytest.raises(WeightsError, match="these are encoder weights, but segmentor weights are needed"):
        read_weights(path, "segmentor")


def test_a_missing_file_is_named_with_the_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere: there is no encoder\.safetensors here; give the run folder"):
        load_encoder(tmp_path / "nowhere")
    saved_encoder(tmp_path)
    with pytest.raises(WeightsError, match=r"no segmentor\.safetensors here, but encoder\.safetensors; .* fine-tuning"):
        load_segmentor(tmp_path)
    assert find_weights(tmp_path, "encoder") == tmp_path / "encoder.safetensors"
    with pytest.raises(WeightsError, match="no such weights"):
        read_weights(tmp_path / "gone.safetensors")


def test_an_incomplete_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_weights(path, nn.ModuleDict({"norm": make_vit().norm}), METADATA)
    with pytest.raises(WeightsError, match=r"only [01]%"):
        load_encoder(path)


def test_weights_with_old_names_of_settings_are_read(tmp_path: Path) -> None:
    former = {"patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 4.0, "positions": "learned",
              "rotary": True, "drop_path": 0.0, "registers": 0, "checkpoint": False}  # fmt: skip
    settings = replace(VIT, position_embedding="learned", rope=True)
    save_weights(tmp_path / "encoder.safetensors", make_vit(settings), METADATA | {"vit": former})
    encoder = load_encoder(tmp_path)
    volume = torch.randn(1, 1, *CROP)
    assert torch.equal(encoder(volume), make_vit(settings)(volume))

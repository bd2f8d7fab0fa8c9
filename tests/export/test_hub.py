"""Folders in the layout of the Hugging Face Hub can be read by its own tools and by voxmim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.errors import WeightsError
from voxmim.export.hub import card_head
from voxmim.weights.files import read_weights

RunVoxmim = Callable[..., tuple[int, str, str]]


def test_the_hubs_tools_read_the_folder_of_a_segmentor(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    out = tmp_path / "hub"
    status, output, _ = run_voxmim("export", tiny_runs.finetune, out, "--to", "hub")
    assert status == 0
    assert f"hf upload USER/NAME {out}" in output.replace("\n", "")
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "voxmim", "image-segmentation", "other",
    )  # fmt: skip
    assert "ct" in card.data.tags
    assert "voxmim predict . SCAN" in card.text
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "bone", "2": "fat"}
    assert config["label2id"]["fat"] == 2
    tensors, metadata = read_weights(tiny_runs.finetune, "segmentor")
    assert metadata.items() <= config.items()
    with safe_open(str(out / "model.safetensors"), framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_voxmim_predicts_and_loads_encoders_from_hub_folders(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    api.export_weights(tiny_runs.finetune, tmp_path / "segmentor", "hub")
    api.export_weights(tiny_runs.pretrain / "encoder.safetensors", tmp_path / "encoder", "hub")
    scan = tiny_runs.source / "imagesTr" / "case_6.nii.gz"
    (exported,) = api.predict(tmp_path / "segmentor", [scan], tmp_path / "one")
    (original,) = api.predict(tiny_runs.finetune, [scan], tmp_path / "other")
    np.testing.assert_array_equal(np.asarray(nib.load(exported).dataobj), np.asarray(nib.load(original).dataobj))
    volume = torch.rand(1, 1, 12, 12, 12)
    encoders = api.load_encoder(tmp_path / "encoder"), api.load_encoder(tiny_runs.pretrain)
    assert torch.equal(encoders[0](volume), encoders[1](volume))
    with pytest.raises(WeightsError, match=r"model\.safetensors: these are encoder weights, but segmentor weights"):
        api.predict(tmp_path / "encoder", [scan], tmp_path / "none")


def test_the_folder_of_a_classifier_names_its_classes(tiny_sorted: Sorted, tmp_path: Path) -> None:
    api.export_weights(tiny_sorted.run, tmp_path / "hub", "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["id2label"] == {"0": "dense", "1": "light"}
    assert ModelCard.load(tmp_path / "hub" / "README.md").data.pipeline_tag == "image-classification"


@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("Apache 2.0", {"license": "apache-2.0"}),
        ("Our own, v. 2", {"license": "other", "license_name": "our-own-v.-2"}),
        ("", {"license": "other", "license_name": "unknown"}),
    ],
)
def test_licences_have_the_names_of_the_hub(licence: str, head: dict[str, str]) -> None:
    metadata = {"kind": "encoder", "preparation": {"intensity": "mr"}, "data": {"licence": licence}}
    assert head.items() <= card_head(metadata).items()


def test_an_occupied_folder_is_refused_and_a_failed_export_leaves_no_files(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="full: it exists already; name a new folder"):
        api.export_weights(tiny_runs.finetune, tmp_path / "full", "hub")
    with pytest.raises(WeightsError, match="there is no encoder"):
        api.export_weights(tmp_path / "full", tmp_path / "hub", "hub")
    assert [file.name for file in tmp_path.rglob("*")] == ["full", "mine.txt"]

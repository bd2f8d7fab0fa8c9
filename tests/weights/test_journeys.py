"""The commands of the two sections of docs/weights.md on importing and exporting weights, with small networks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Tiny
from voxmim import api
from voxmim.weights.files import read_weights
from weights_helpers import perturbed

pytest.importorskip("dynamic_network_architectures", reason="installed without its dependencies, see CONTRIBUTING.md")
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

DOCS = Path(__file__).parents[2] / "docs" / "weights.md"
QUICK = {
    "pretrain": "--steps 1 --batch 1 --set resenc.widths=[4,8] --set resenc.blocks=[1,1] --set crop=[16,16,8]",
    "finetune": "--steps 1 --batch 1 --set crop=[16,16,8] --set unetr.deep_supervision=true",
}


def commands(heading: str) -> list[list[str]]:
    """The voxmim commands of a section, with options that make them fast."""
    section = DOCS.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^voxmim .*$", section, re.MULTILINE)]
    assert lines
    return [[*words, *shlex.split(QUICK.get(words[0], ""))] for words in lines]


def nnssl_checkpoint(file: Path) -> None:
    """A small checkpoint as written by nnssl: three stages, its plan, citations, and NumPy scalars in its logs."""
    network = perturbed(
        ResidualEncoderUNet(
            1, 3, [4, 8, 8], nn.Conv3d, 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], [1, 1, 1], 1, [1, 1], True,
            nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        )
    )  # fmt: skip
    configuration = {"patch_size": [16, 16, 16], "spacing": [1, 1, 1], "normalization_schemes": ["ZScoreNormalization"]}
    content: dict[str, Any] = {
        "network_weights": network.state_dict(),
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None},
            "pretrain_plan": {"configurations": {"onemmiso": configuration}},
        },
        "citations": [{"type": "Dataset", "name": "OpenMind", "apa_citations": ["Wald, T. et al. (2024)."]}],
        "logging": {"train_losses": [np.float64(0.25), np.float32(0.5)]},
    }
    file.parent.mkdir()
    torch.save(content, file)
    (file.parent / "README.md").write_text("---\ntags:\n- mri\nlicense: cc-by-4.0\n---\n# Card\n")


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the scans, the store and the checkpoint that the commands name."""
    (tmp_path / "SCANS").symlink_to(tiny.source)
    (tmp_path / "store").symlink_to(tiny.store)
    nnssl_checkpoint(tmp_path / "ResEncL-OpenMind-MAE" / "checkpoint_final.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_published_weights_are_imported_fine_tuned_and_used(
    folder: Path, run_voxmim: Callable[..., tuple[int, str, str]]
) -> None:
    for words in commands("From OpenMind's ResEnc-L to my labels"):
        status, _, error = run_voxmim(*words)
        assert status == 0, error
    _, metadata = read_weights(folder / "segmentor" / "segmentor.safetensors")
    assert metadata["encoder"] == "resenc"
    origin = metadata["init"]
    assert (origin["data"]["licence"], origin["imported"]["source"]) == ("cc-by-4.0", "OpenMind")
    card = (folder / "openmind" / "MODEL_CARD.md").read_text()
    for text in ("cc-by-4.0", "Wald, T. et al. (2024).", "layout nnunet_resenc", "1 x 1 x 1 mm"):
        assert text in card


def test_an_nnunet_checkpoint_contains_its_plans(tmp_path: Path) -> None:
    """As nnU-Net writes it: plans in the arguments of its trainer, a device, and NumPy scalars in its log."""
    norm = nn.InstanceNorm3d
    network = perturbed(PlainConvUNet(1, 2, [4, 8], nn.Conv3d, 3, [[1, 1, 1], [1, 2, 2]], 2, 2, 2, True, norm,
                                      {"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU))  # fmt: skip
    statistics = {"mean": 50.0, "std": 100.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0}
    fullres = {"patch_size": [8, 16, 16], "spacing": [3.0, 1.0, 1.0], "normalization_schemes": ["CTNormalization"],
               "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2]]}  # fmt: skip
    plans = {
        "configurations": {"3d_fullres": fullres},
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }
    training = {"plans": plans, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu"),
                "dataset_json": {"channel_names": {"0": "CT"}}}  # fmt: skip
    content = {"network_weights": network.state_dict(), "init_args": training, "_best_ema": np.float64(0.5),
               "logging": {"mean_fg_dice": [np.float64(0.1)], "epoch_start": [np.float32(1.0)]}}  # fmt: skip
    torch.save(content, tmp_path / "checkpoint_final.pth")
    assert api.import_weights(tmp_path / "checkpoint_final.pth", tmp_path / "own").fraction == 1.0
    _, metadata = read_weights(tmp_path / "own" / "encoder.safetensors")
    preparation = metadata["preparation"]
    assert (preparation["spacing"], preparation["intensity"], preparation["channels"]) == ([1, 1, 3], "ct", ["CT"])
    assert (metadata["window"], metadata["crop"]) == ([-150, 250], [16, 16, 8])
    assert metadata["resenc"]["pad_value"] == pytest.approx(0.5)


def test_an_encoder_is_pre_trained_and_exported_to_nnunet(
    folder: Path, run_voxmim: Callable[..., tuple[int, str, str]]
) -> None:
    output = ""
    for words in commands("From my scans to nnU-Net"):
        status, output, error = run_voxmim(*words)
        assert status == 0, error
    assert "nnUNetv2_preprocess_like_nnssl -d DATASET -n pretrained -pc pretrained.pth" in output
    checkpoint = torch.load(folder / "pretrained.pth", weights_only=True)
    assert checkpoint["nnssl_adaptation_plan"]["key_to_stem"] == "encoder.stem"
    assert json.dumps(checkpoint["citations"])

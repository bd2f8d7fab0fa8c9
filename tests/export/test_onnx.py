"""Segmentors as ONNX files in ONNX Runtime; tests/export/test_page.py runs one in a script without torch and voxmim."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from conftest import TinyRuns
from torchless import run_torchless
from voxmim import api
from voxmim.errors import MissingPackageError, WeightsError
from voxmim.export import onnx
from voxmim.images.components import remove_small_components
from voxmim.networks.build import ENCODERS, build_encoder, build_segmentor
from voxmim.settings import UNETRSettings

SCRIPT = Path(__file__).parents[2] / "examples" / "predict_onnx.py"


def test_the_script_removes_small_components_as_voxmim_does() -> None:
    script = runpy.run_path(str(SCRIPT))
    label_map = np.random.default_rng(0).choice(np.array([0, 0, 0, 0, 2, 7], np.uint8), (12, 10, 9))
    about = {"labels": {"2": "x", "5": "absent", "7": "y"}, "remove_small_components": ["x", "absent"]}
    ours = remove_small_components(label_map, [2, 5])
    assert (ours != label_map).any()
    np.testing.assert_array_equal(script["without_small_components"](label_map.copy(), about), ours)


NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "vit": ({"patch": (4, 4, 4), "width": 12, "depth": 1, "heads": 2, "rope": True, "registers": 1}, (8, 8, 8)),
    "swin": ({"patch": (2, 2, 2), "width": 6, "depths": (2, 1), "heads": (1, 2), "window": 2}, (8, 8, 8)),
    "resenc": ({"widths": (4, 6), "blocks": (1, 1)}, (8, 8, 4)),
}


def test_the_environment_of_the_script_has_neither_torch_nor_voxmim(tmp_path: Path) -> None:
    for name in ("torch", "voxmim"):
        assert f"No module named '{name}'" in run_torchless(tmp_path / name, "-c", f"import {name}").stderr


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_segmentor_gives_the_same_output_in_onnx_runtime_for_any_batch_size(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, crop = NETWORKS[kind]
    torch.manual_seed(0)
    encoder = build_encoder(ENCODERS[kind].settings(**settings), 2, crop)
    network = build_segmentor(encoder, UNETRSettings(feature_size=4), 3).eval()
    metadata = {"preparation": {"channels": ["a", "b"]}, "crop": crop, "labels": {"1": "x", "2": "y"}}
    monkeypatch.setattr("voxmim.export.comparison.load_segmentor", lambda run: (network, metadata))
    result = onnx.export_onnx(tmp_path, tmp_path / "a.onnx")
    assert result.sound, result.difference
    volume = torch.randn(5, 2, *crop)
    output = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(["logits"], {"volume": volume.numpy()})[0]
    np.testing.assert_allclose(output, network(volume).detach().numpy(), atol=1e-4)


def test_the_command_prints_the_difference_and_fails_if_it_is_too_large(
    tiny_runs: TinyRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_voxmim: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.setattr(onnx, "_program", lambda network, shape: FakeProgram())
    for difference, status, verdict in ((2e-5, 0, "at most 0.0001"), (3e-3, 1, "but should be at most 0.0001")):
        monkeypatch.setattr(onnx, "_difference", lambda *given, difference=difference: difference)
        exit_status, output, _ = run_voxmim("export", tiny_runs.finetune, tmp_path / "a.onnx", "--to", "onnx")
        assert exit_status == status
        assert f"largest difference to torch: {difference:.1e}, {verdict}" in output


class FakeProgram:
    """Replaces an exported program."""

    class model:
        metadata_props: dict[str, str] = {}  # noqa: RUF012

    def save(self, file: Path) -> None:
        file.write_bytes(b"")


class Unsupported(nn.Module):
    """A network with an operation that ONNX does not have."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(volume[..., 0]).real


def test_a_failed_export_gives_one_sentence_and_leaves_no_files(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"encoder\.pt: the file name must end in \.onnx"):
        api.export_weights(tiny_runs.finetune, tmp_path / "encoder.pt", "onnx")
    with pytest.raises(WeightsError, match=r"there is no segmentor\.safetensors here"):
        api.export_weights(tiny_runs.pretrain, tmp_path / "a.onnx", "onnx")
    metadata = {"preparation": {"channels": ["a"]}, "crop": (4, 4, 4), "labels": {"1": "x"}}
    monkeypatch.setattr("voxmim.export.comparison.load_segmentor", lambda run: (Unsupported(), metadata))
    with pytest.raises(WeightsError, match="a part of this network has no counterpart in ONNX") as exc_info:
        onnx.export_onnx(tmp_path / "run", tmp_path / "a.onnx")
    assert "\n" not in str(exc_info.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_reported_with_its_extra(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxmim.errors.find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"^--to onnx needs onnx, onnxscript, onnxruntime: .*'voxmim\[export\]'"
    ):
        api.export_weights(tiny_runs.finetune, tmp_path / "a.onnx", "onnx")

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import voxmim
from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.errors import RecipeError, RunError, WeightsError
from voxmim.phantoms import cohort
from voxmim.recipe import load_recipe
from voxmim.training import finetune
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_segmentor


def test_all_public_functions_exist() -> None:
    assert {"prepare", "pretrain", "finetune", "evaluate", "predict", "load_encoder"} <= set(voxmim.__all__)
    for name in voxmim.__all__:
        function = getattr(voxmim, name)
        assert function is getattr(api, name)
        assert callable(function)
        assert inspect.getdoc(function)
    with pytest.raises(AttributeError, match="module 'voxmim' has no attribute 'nothing'"):
        _ = voxmim.nothing


def test_preparing_scans_does_not_import_torch() -> None:
    code = "import sys, voxmim; voxmim.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_loaded_encoder_can_be_part_of_any_network(tiny_runs: TinyRuns) -> None:
    encoder = voxmim.load_encoder(str(tiny_runs.pretrain))
    tensors, metadata = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    assert not encoder.training
    assert encoder.metadata == metadata
    torch.testing.assert_close(dict(encoder.state_dict()), tensors, rtol=0, atol=0)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(encoder.width, 2)

        def forward(self, volume: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(volume).mean(dim=1))

    network = Classifier()
    network(torch.rand(3, 1, 12, 12, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_fine_tuned_encoder_is_loaded_from_its_segmentor(tiny_runs: TinyRuns) -> None:
    network, metadata = load_segmentor(tiny_runs.finetune)
    for path in (tiny_runs.finetune, tiny_runs.finetune / "segmentor.safetensors"):
        encoder = voxmim.load_encoder(path)
        assert encoder.metadata == metadata
        torch.testing.assert_close(encoder.state_dict(), network.encoder.state_dict(), rtol=0, atol=0)


def test_a_folder_without_weights_has_no_encoder(tmp_path: Path) -> None:
    accepted = "give the run folder of a pre-training or a fine-tuning"
    with pytest.raises(WeightsError, match=rf"there is no encoder\.safetensors here; {accepted}"):
        voxmim.load_encoder(tmp_path)


def recorder(calls: list[Any]) -> Callable[..., None]:
    """A function that records its arguments, with keyword arguments last, and raises an error."""

    def stop(*given: Any, **options: Any) -> None:
        calls.append((*given, options))
        raise RunError("stop")

    return stop


@pytest.mark.parametrize("labels", [2, "2", 0.5, "0.5"])
def test_labels_may_be_a_number_or_a_fraction(tiny: Tiny, tmp_path: Path, monkeypatch: Any, labels: Any) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(finetune, "finetune", recorder(calls))
    with pytest.raises(RunError, match="stop"):
        api.finetune(str(tiny.store), str(tmp_path / "run"), labels=labels)
    store, out, recipe, options = calls[0]
    assert (store.path, out) == (tiny.store, tmp_path / "run")
    assert (options["init"], options["labels"], options["resume"]) == (None, str(labels), False)
    assert recipe == load_recipe("resenc-tiny")


def test_settings_change_the_recipe(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"mask.ratio": 0.5, "pretrain.steps": 1, "pretrain.batch": 1, "seed": 7}
    run = Run.open(api.pretrain(str(tiny.store), str(tmp_path / "run"), str(tiny.recipe), settings))
    assert run.recipe() == load_recipe(tiny.recipe, settings)
    assert (run.recipe().mask.ratio, run.recipe().seed) == (0.5, 7)
    with pytest.raises(RecipeError, match=r"did you mean 'pretrain\.steps'"):
        api.pretrain(tiny.store, tmp_path / "other", tiny.recipe, {"pretrain.step": 1})
    assert not (tmp_path / "other").exists()


def test_an_init_from_a_weights_file_uses_the_default_recipe(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: Any
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(finetune, "finetune", recorder(calls))
    for init, recipe in (
        (tiny_runs.pretrain, tiny_runs.recipe),
        (tiny_runs.pretrain / "encoder.safetensors", "resenc-tiny"),
    ):
        with pytest.raises(RunError, match="stop"):
            api.finetune(tiny_runs.store, tmp_path / "run", init)
        own = load_recipe(tiny_runs.recipe)
        from_run = {
            name: getattr(own, name) for name in ("encoder", "encoder_settings", "pretext_settings", "mask", "window")
        }
        assert calls[-1][2] == replace(load_recipe(recipe), **from_run)
        assert calls[-1][3]["init"] == init


def test_phantom_passes_its_arguments_on(tmp_path: Path, monkeypatch: Any) -> None:
    calls = []
    monkeypatch.setattr(cohort, "write_cohort", lambda *given: calls.append(given))
    assert api.phantom(str(tmp_path / "out"), 5, 2, print, "head") == tmp_path / "out"
    assert calls == [(tmp_path / "out", 5, 2, print, "head")]


def test_importing_needs_no_user_name() -> None:
    script = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = unknown\n"
        "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'): os.environ.pop(name, None)\n"
        "import voxmim.cli, voxmim.networks.build, voxmim.training.pretrain, voxmim.report.reconstruct\n"
        "import torch._dynamo\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr

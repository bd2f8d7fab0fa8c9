"""Gradient accumulation, averaged weights, a frozen encoder, torch.compile."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.report.reconstruct import Reconstructor
from voxmim.store.crops import CropPlan
from voxmim.store.format import Store
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.training.validate_pretext import Validation
from voxmim.weights.files import read_weights

Weights = dict[str, Tensor]


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def assert_close(one: Path, other: Path) -> None:
    for row, expected in zip(trace(one), trace(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A list of every checkpoint that is written."""
    kept: list[dict[str, Any]] = []
    save = Run.save_checkpoint

    def record(self: Run, state: dict[str, Any]) -> None:
        kept.append({**state, "network": {name: tensor.clone() for name, tensor in state["network"].items()}})
        save(self, state)

    monkeypatch.setattr(Run, "save_checkpoint", record)
    return kept


def test_gradient_accumulation_gives_the_same_step(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"pretrain.batch": 4, "pretrain.augmentation.flip": 0.5}
    whole = api.pretrain(tiny.store, tmp_path / "whole", tiny.recipe, settings)
    parts = api.pretrain(tiny.store, tmp_path / "parts", tiny.recipe, settings | {"pretrain.accumulate": 2})
    assert_close(whole, parts)


def test_averaged_weights_are_validated_and_saved(
    tiny: Tiny, tmp_path: Path, checkpoints: list[dict[str, Any]]
) -> None:
    settings = {"pretrain.ema": 0.6, "pretrain.checkpoint_every": 1}
    run = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, settings)
    expected: Weights = {}
    for state in checkpoints:
        for name, own in state["network"].items():
            expected[name] = 0.6 * expected[name] + 0.4 * own if name in expected else own
    saved, _ = read_weights(run / "pretext.safetensors")
    torch.testing.assert_close(saved, expected)
    assert not torch.equal(saved["head.weight"], checkpoints[-1]["network"]["head.weight"])

    recipe, store = Run.open(run).recipe(), Store(tiny.store)
    assert recipe.crop is not None
    plan = CropPlan(recipe.crop, recipe.window, recipe.seed)
    network = Reconstructor.load(run).network
    figures = Validation(make_fabric(recipe), network, store, store.in_split("val"), plan, recipe).run()
    assert figures["val_loss"] == trace(run)[-1]["val_loss"]
    assert "exponential moving average, decay 0.6" in (run / "report.html").read_text()


def test_the_encoder_is_frozen_until_it_is_released(
    tiny_runs: TinyRuns, tmp_path: Path, checkpoints: list[dict[str, Any]]
) -> None:
    settings = {"finetune.freeze": 0.5, "finetune.checkpoint_every": 1}
    api.finetune(tiny_runs.store, tmp_path / "run", tiny_runs.pretrain, recipe=tiny_runs.recipe, settings=settings)
    start, _ = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    for done, state in enumerate(checkpoints, start=1):
        for name, before in start.items():
            assert torch.equal(state["network"][f"encoder.{name}"], before) == (done <= 3), (done, name)
    out = [state["network"]["out.conv.conv.weight"] for state in checkpoints]
    assert all(not torch.equal(one, other) for one, other in pairwise(out))


def test_an_encoder_that_is_never_released_is_not_in_the_optimiser(
    tiny_runs: TinyRuns, tmp_path: Path, checkpoints: list[dict[str, Any]]
) -> None:
    options: dict[str, Any] = {"recipe": tiny_runs.recipe, "settings": {"finetune.freeze": 1}}
    api.finetune(tiny_runs.store, tmp_path / "run", tiny_runs.pretrain, **options)
    start, _ = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    network = checkpoints[-1]["network"]
    assert all(torch.equal(network[f"encoder.{name}"], before) for name, before in start.items())
    others = [name for name in network if not name.startswith("encoder.")]
    assert len(checkpoints[-1]["optimiser"]["state"]) == len(others)


def test_a_run_stopped_before_and_after_the_release_resumes(
    tiny_runs: TinyRuns, tmp_path: Path, stop_before_step: Any
) -> None:
    settings = {"finetune.freeze": 0.5, "finetune.checkpoint_every": 1, "finetune.ema": 0.5}
    options: dict[str, Any] = {"init": tiny_runs.pretrain, "recipe": tiny_runs.recipe, "settings": settings}
    uninterrupted = api.finetune(tiny_runs.store, tmp_path / "uninterrupted", **options)
    with stop_before_step(2):
        api.finetune(tiny_runs.store, tmp_path / "stopped", **options)
    with stop_before_step(5):
        api.finetune(tiny_runs.store, tmp_path / "stopped", resume=True)
    api.finetune(tiny_runs.store, tmp_path / "stopped", resume=True)
    assert trace(tmp_path / "stopped") == trace(uninterrupted)
    one, other = (read_weights(path / "segmentor.safetensors")[0] for path in (uninterrupted, tmp_path / "stopped"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_compiled_network_trains_to_the_same_loss_and_keeps_its_names(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def backend(graph: Any, example: Any) -> Any:
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    run = api.pretrain(tiny_runs.store, tmp_path / "run", tiny_runs.recipe, {"compile": True})
    assert calls
    assert_close(run, tiny_runs.pretrain)
    for name in ("encoder", "pretext"):
        ours, theirs = (read_weights(path / f"{name}.safetensors")[0] for path in (run, tiny_runs.pretrain))
        assert ours.keys() == theirs.keys()

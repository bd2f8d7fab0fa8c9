"""Where a loss that is not finite arose is found: scans, weights, a layer, or the loss itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Tiny
from voxmim import api
from voxmim.errors import TrainingError
from voxmim.networks.vit import Block
from voxmim.store.crops import Batch, Crops
from voxmim.store.format import Store
from voxmim.training.nonfinite import explain, image_files, unexplained

FILES = ["b.nii.gz", "a.nii.gz"]


class Layers(nn.Module):
    """Three layers of which one can be poisoned, between two plain operations."""

    def __init__(self, poisoned: str = "") -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 1)
        if poisoned:
            self.get_submodule(poisoned).register_forward_hook(lambda *given: given[-1] / 0)

    def forward(self, crops: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.inner(self.first(crops))
        return self.last(features), [features]


def batch() -> Batch:
    return Batch(torch.rand(2, 4), torch.zeros(2), torch.zeros(2), ["x", "y"], torch.ones(2, 1, dtype=torch.bool))


def said(network: nn.Module, given: Batch) -> str:
    def loss(network: nn.Module) -> Tensor:
        return network(given.image)[0].mean()

    hooks = sum(len(module._forward_hooks) for module in network.modules())
    texts = explain(network, given, loss, FILES)
    assert sum(len(module._forward_hooks) for module in network.modules()) == hooks
    assert "" in texts  # the layer is of no interest where the cause is known
    return "".join(texts)


@pytest.mark.parametrize(("poisoned", "kind"), [("first", "Linear"), ("inner.1", "ReLU"), ("last", "Linear")])
def test_the_first_layer_whose_output_is_not_finite_is_named(poisoned: str, kind: str) -> None:
    text = said(Layers(poisoned), batch())
    assert text.startswith(f"it arose in {poisoned} ({kind}), on a.nii.gz, b.nii.gz; look at these scans, or start")


def test_scans_that_are_not_finite_are_named_alone() -> None:
    given = batch()
    given.image[1, 2] = math.inf
    text = said(Layers(), given)
    assert text == ("the scans themselves hold values that are not finite: a.nii.gz; check and prepare them again.")


def test_weights_that_are_not_finite_already_are_told() -> None:
    network = Layers()
    with torch.no_grad():
        network.inner[0].weight[0, 0] = math.nan
        network.last.bias[0] = math.nan
    text = said(network, batch())
    assert text.startswith("the weights inner.0.weight and 1 more had become so in the step before, on other crops;")


def test_nothing_is_said_where_all_is_finite() -> None:
    assert said(Layers(), batch()) == ""
    assert unexplained(FILES).startswith("it arose in the loss itself, on a.nii.gz, b.nii.gz; look")


def test_files_are_those_of_the_source(tiny: Tiny) -> None:
    store = Store(tiny.store)
    assert [Path(file).name for file in image_files(store, ["case_1", "case_8"])] == [
        "case_1.nii.gz", "case_8.nii.gz",
    ]  # fmt: skip


def test_a_training_stops_at_a_poisoned_layer(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = Block.forward, []

    def poison(self: Block, *given: Any) -> Tensor:
        calls.append(self)
        output = forward(self, *given)
        return output * math.nan if len(calls) > 6 and self is calls[1] else output  # the encoder's second block

    monkeypatch.setattr(Block, "forward", poison)
    with pytest.raises(
        TrainingError,
        match=r"run: the loss is nan at step 3: it arose in encoder\.blocks\.1 \(Block\), on \S+\.nii\.gz, \S+",
    ):
        api.pretrain(tiny.store, tmp_path / "run", tiny.recipe)


def test_a_training_stops_at_a_poisoned_scan(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Crops.__getitem__

    def spoil(self: Crops, number: int) -> Any:
        image, *rest = read(self, number)
        if number == 7:
            image[0, 3, 3, 3] = np.nan
        return image, *rest

    monkeypatch.setattr(Crops, "__getitem__", spoil)
    with pytest.raises(TrainingError, match=r"nan at step 4: the scans themselves .* finite: \S+\.nii\.gz; check"):
        api.pretrain(tiny.store, tmp_path / "run", tiny.recipe)

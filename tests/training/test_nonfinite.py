"""The cause of a loss that is not finite: scans, weights, or neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Tiny
from voxmim import api
from voxmim.errors import TrainingError
from voxmim.store.crops import Crops
from voxmim.store.format import Store
from voxmim.training.nonfinite import find_cause, image_files

FILES = ["b.nii.gz", "a.nii.gz"]
ALL = torch.tensor([True, True])


@pytest.mark.parametrize("network", [nn.Linear(4, 1), None])
def test_non_finite_scans_are_named_as_the_cause(network: nn.Module | None) -> None:
    certain, text = find_cause(network, torch.tensor([True, False]), FILES)
    assert certain
    assert text == "these scans hold values that are not finite: a.nii.gz; check and prepare them again."


def test_non_finite_weights_are_named_as_the_cause() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with torch.no_grad():
        network[0].weight[0, 0] = math.nan
        network[1].bias[0] = math.nan
    certain, text = find_cause(network, ALL, FILES)
    assert certain
    assert text.startswith("the weights 0.weight and 1 more are not finite since the step before;")


def test_if_both_are_finite_scans_and_settings_are_named() -> None:
    certain, text = find_cause(nn.Linear(4, 1), ALL, FILES)
    assert not certain
    assert text.startswith("crops and weights are finite; look at the scans a.nii.gz, b.nii.gz, or start again with")


def test_weights_that_have_changed_since_are_not_named() -> None:
    certain, text = find_cause(None, ALL, FILES)
    assert not certain
    assert text.startswith("the crops are finite; look at the scans a.nii.gz, b.nii.gz, or start again with")


def test_scans_are_named_by_the_files_of_the_source(tiny: Tiny) -> None:
    store = Store(tiny.store)
    assert [Path(file).name for file in image_files(store, ["case_1", "case_8"])] == [
        "case_1.nii.gz", "case_8.nii.gz",
    ]  # fmt: skip


def test_a_training_stops_at_a_scan_with_nan(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Crops._row

    def add_nan(self: Crops, number: int, out: torch.Tensor) -> Any:
        image, *rest = read(self, number, out)
        if number == 7:
            image[0, 3, 3, 3] = np.nan
        return image, *rest

    monkeypatch.setattr(Crops, "_row", add_nan)
    with pytest.raises(TrainingError, match=r"nan at step 4: these scans .* finite: \S+\.nii\.gz; check"):
        api.pretrain(tiny.store, tmp_path / "run", tiny.recipe)

"""Training on a store with findings in doubt requires accepting them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import Tiny
from voxmim import api
from voxmim.errors import StoreError
from voxmim.settings import Augmentation, Training
from voxmim.store.crops import Batch
from voxmim.store.format import Store
from voxmim.store.sides import Sides
from voxmim.training.run import Run
from voxmim.training.setup import augmenter

SETTINGS = {"pretrain.steps": 2, "finetune.steps": 2, "finetune.validate_every": 2, "pretrain.checkpoint_every": 1}
DOUBT = {"file": "labelsTr/case_1.nii.gz", "kind": "flipped label", "reason": "labelsTr/case_1.nii.gz: it is flipped."}
HARMLESS = {
    "file": "imagesTr/case_2.nii.gz",
    "kind": "tiny",
    "reason": "imagesTr/case_2.nii.gz: it is.",
    "action": "used",
}


@pytest.fixture
def store_in_doubt(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny store with one finding in doubt and one that is not."""
    store = shutil.copytree(tiny.store, tmp_path / "store")
    _note(store, {**DOUBT, "action": "used"}, HARMLESS)
    assert [finding.kind for finding in Store(store).unresolved] == ["flipped label"]
    return store


def _note(store: Path, *findings: dict[str, str]) -> None:
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "findings": findings}))


def test_findings_in_doubt_are_refused_with_the_file_and_the_option(
    tiny: Tiny, store_in_doubt: Path, tmp_path: Path
) -> None:
    for train in (api.pretrain, api.finetune):
        with pytest.raises(StoreError, match=r"1 finding in doubt \(flipped label: labelsTr/case_1") as exc_info:
            train(store_in_doubt, tmp_path / "run", recipe=tiny.recipe)
        assert "--accept-findings" in str(exc_info.value)
        assert not (tmp_path / "run").exists()


def test_accepted_findings_are_saved_in_the_run_and_need_no_second_acceptance(
    tiny: Tiny, store_in_doubt: Path, tmp_path: Path
) -> None:
    pretrained = api.pretrain(store_in_doubt, tmp_path / "a", tiny.recipe, SETTINGS, accept_findings=True)
    tuned = api.finetune(store_in_doubt, tmp_path / "b", recipe=tiny.recipe, settings=SETTINGS, accept_findings=True)
    for run in (pretrained, tuned):
        assert Run.open(run).about["accepted_findings"] == ["flipped label: labelsTr/case_1.nii.gz"]
    assert api.pretrain(store_in_doubt, pretrained, resume=True) == pretrained


def test_a_label_map_that_was_left_out_is_not_in_doubt(tiny: Tiny, store_in_doubt: Path, tmp_path: Path) -> None:
    _note(store_in_doubt, {**DOUBT, "action": "left out"}, HARMLESS)
    run = api.pretrain(store_in_doubt, tmp_path / "run", tiny.recipe, SETTINGS)
    assert "accepted_findings" not in Run.open(run).about


class OneDevice:
    """The part of Fabric that `augmenter` uses."""

    is_global_zero = True

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_flips_exchange_left_and_right_labels_and_disabled_augmentations_are_printed(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    label = torch.ones(20, 1, 4, 4, 4, dtype=torch.int64)
    batch = Batch(label.float(), label, torch.arange(20), [""] * 20, torch.ones(20, 1, dtype=torch.bool))
    training = Training(augmentation=Augmentation(flip=0.5, rot90=0.5, intensity=0.0))
    augmented = augmenter(OneDevice(), Store(tiny.store), training, Sides({1: 2, 2: 1}))(batch)  # type: ignore[arg-type]
    assert set(augmented.label.unique().tolist()) == {1, 2}
    assert "Quarter turns are off" in capsys.readouterr().out

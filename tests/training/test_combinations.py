"""Every pretext with every encoder that it can pre-train, in all commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import TINY_RECIPE, TINY_TRAINING, Tiny
from voxmim import api
from voxmim.errors import WeightsError
from voxmim.networks.build import ENCODERS, has_patch_setting
from voxmim.pretext.build import PRETEXTS
from voxmim.recipe import Recipe, load_recipe, make_recipe, write_recipe
from voxmim.report.run_page import write_run_page
from voxmim.store.format import Store
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder

PICTURES = True  # in reports
SMALL: dict[str, Any] = {
    **TINY_RECIPE,
    "crop": [16, 16, 8],
    "overlap": 0.0,
    "swin": {"patch": [2, 2, 2], "width": 4, "depths": [1, 1], "heads": [1, 2], "window": 2, "last_merge": True},
    "unet": {"width": 4, "blocks": [1, 1, 1]},
    "resenc": {"widths": [4, 8], "blocks": [1, 1]},
    "segresnet": {"width": 4, "blocks": [1, 1]},
    "pretrain": {**TINY_TRAINING, "steps": 3, "checkpoint_every": 2, "validate_every": 1,
                 "augmentation": {"flip": 0.5, "noise": 0.05}},
    "finetune": {**TINY_TRAINING, "steps": 1, "validate_every": 1},
}  # fmt: skip
COMBINATIONS = [
    (pretext, encoder)
    for pretext, kind in PRETEXTS.items()
    for encoder, entry in ENCODERS.items()
    if kind.for_encoder(entry.encoder)
]


BY_PRETEXT = [("mae", "vit"), ("simmim", "swin"), ("simclr", "unet")]
BY_ENCODER = [next(pair for pair in COMBINATIONS if pair[1] == encoder) for encoder in ENCODERS]


def parametrize(combinations: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrize a test with pre-trainings of these combinations."""
    return pytest.mark.parametrize("pretrained", combinations, indirect=True, ids="-".join, scope="module")


def recipe_of(folder: Path, **changes: Any) -> Path:
    file = folder / "recipe.yaml"
    write_recipe(file, make_recipe({**SMALL, **changes}))
    return file


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


@dataclass(frozen=True)
class Pretrained:
    """A pre-training with one pretext and one encoder."""

    pretext: str
    encoder: str
    recipe: Path
    run: Path


@pytest.fixture(scope="module")
def pretrained(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A pre-training with a pretext and an encoder, shared by the tests of this file."""
    pretext, encoder = request.param
    folder = tmp_path_factory.mktemp("pretrained")
    recipe = recipe_of(folder, pretext=pretext, encoder=encoder)
    return Pretrained(pretext, encoder, recipe, pretrain(Store(tiny.store), folder / "run", load_recipe(recipe)).path)


@pytest.fixture
def scan(tiny: Tiny) -> Path:
    return tiny.source / "imagesTr" / "case_7.nii.gz"


@parametrize(BY_PRETEXT)
def test_a_stopped_pre_training_resumes_exactly(
    pretrained: Pretrained, tiny: Tiny, tmp_path: Path, stop_before_step: Any
) -> None:
    store = Store(tiny.store)
    with stop_before_step(2):
        pretrain(store, tmp_path / "run", load_recipe(pretrained.recipe))
    torch.rand(7)
    resumed = pretrain(store, tmp_path / "run", Recipe(), resume=True).path
    assert trace(resumed) == trace(pretrained.run)
    for name in ("encoder.safetensors", "pretext.safetensors"):
        (tensors, metadata), (others, other_metadata) = (read_weights(run / name) for run in (resumed, pretrained.run))
        torch.testing.assert_close(tensors, others, rtol=0, atol=0)
        assert metadata == other_metadata


@parametrize(COMBINATIONS)
def test_the_encoder_can_be_loaded(pretrained: Pretrained) -> None:
    encoder = load_encoder(pretrained.run)
    assert encoder.encode(torch.rand(1, 1, 16, 16, 8)).shape[:2] == (1, encoder.width)


@parametrize([pair for pair in BY_ENCODER if has_patch_setting(ENCODERS[pair[1]].settings())])
def test_a_further_pre_training_starts_from_the_encoder_with_another_patch(
    pretrained: Pretrained, tiny: Tiny, tmp_path: Path
) -> None:
    encoder = pretrained.encoder
    patch = [4, 4, 4] if encoder == "swin" else [8, 8, 4]
    changed = {f"{encoder}.patch": patch, "crop": [32, 32, 16], "pretrain.steps": 1}
    run = Run.open(api.pretrain(tiny.store, tmp_path / "run", None, changed, init=pretrained.run))
    assert (run.recipe().encoder, run.recipe().pretext) == (encoder, pretrained.pretext)
    assert "1 adapted (" in run.about["transfer"]
    assert run.about["transfer"].endswith("100.0% of the encoder's parameters")


@parametrize(BY_ENCODER)
def test_a_segmentor_is_fine_tuned_from_the_encoder_and_predicts(
    pretrained: Pretrained, tiny: Tiny, tmp_path: Path, scan: Path
) -> None:
    recipe = Run.open(pretrained.run).recipe()
    segmentor, report = finetune(Store(tiny.store), tmp_path / "segmentor", recipe, pretrained.run)
    assert report is not None
    assert report.fraction == 1.0
    (labels,) = api.predict(segmentor.path, [scan], tmp_path / "labels")
    assert nib.load(labels).shape == nib.load(scan).shape


@parametrize([("simclr", "unet")])
def test_a_pretext_that_predicts_no_voxels_cannot_reconstruct(
    pretrained: Pretrained, tmp_path: Path, scan: Path
) -> None:
    with pytest.raises(WeightsError, match="SimCLR predicts no voxels to reconstruct"):
        api.reconstruct(pretrained.run, [scan], tmp_path)


@parametrize([pair for pair in COMBINATIONS if pair[0] != "simclr"])
def test_masked_parts_are_reconstructed(pretrained: Pretrained, tmp_path: Path, scan: Path) -> None:
    (picture,) = api.reconstruct(pretrained.run, [scan], tmp_path)
    assert picture.is_file()
    hidden = np.asarray(nib.load(tmp_path / "case_7_mask.nii.gz").dataobj)
    assert 0.2 < hidden.mean() < 0.9  # three quarters of the box around the body


@parametrize(BY_PRETEXT)
def test_the_report_names_pretext_and_encoder(pretrained: Pretrained) -> None:
    write_run_page(Run.open(pretrained.run))
    report = (pretrained.run / "report.html").read_text()
    assert {"mae": "(MAE)", "simmim": "(SimMIM)", "simclr": "(SimCLR)"}[pretrained.pretext] in report
    assert Run.open(pretrained.run).recipe().encoder_settings.summary() in report
    assert ("data:image/png" in report) == (pretrained.pretext != "simclr")


@pytest.mark.parametrize("carry", [True, False])
def test_the_decoder_of_a_unet_is_transferred_if_requested(tiny: Tiny, tmp_path: Path, carry: bool) -> None:
    recipe = recipe_of(tmp_path, encoder="unet", carry_decoder=carry)
    store, negligible_lr = Store(tiny.store), {"finetune.lr": 1e-12}  # one step with a negligible learning rate
    pretrained = pretrain(store, tmp_path / "pretrained", load_recipe(recipe, negligible_lr)).path
    segmentor = finetune(store, tmp_path / "segmentor", load_recipe(recipe, negligible_lr), pretrained)[0].path
    theirs, _ = read_weights(pretrained / "pretext.safetensors")
    ours, _ = read_weights(segmentor / "segmentor.safetensors")
    same = [torch.allclose(ours[name], theirs[f"network.{name}"], atol=1e-9) for name in ours if name[:4] == "deco"]
    assert len(same) > 2
    assert all(same) if carry else not any(same)
    assert (f"; and all {len(same)} of the decoder" in Run.open(segmentor).about["transfer"]) == carry


def test_a_missing_decoder_cannot_be_transferred(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, encoder="unet", carry_decoder=True)
    chosen = load_recipe(recipe, {"pretext": "simclr", "pretrain.steps": 1})
    pretrained = pretrain(Store(tiny.store), tmp_path / "pretrained", chosen).path
    with pytest.raises(WeightsError, match="these weights have no decoder to carry over"):
        api.finetune(tiny.store, tmp_path / "segmentor", pretrained)
    (pretrained / "pretext.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"there is no pretext\.safetensors here, but encoder\.safetensors"):
        api.finetune(tiny.store, tmp_path / "segmentor", pretrained)
    assert not (tmp_path / "segmentor").exists()


def test_a_fine_tuning_uses_encoder_and_pretext_of_the_weights_for_any_recipe(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, encoder="swin", pretext="simmim")
    store = Store(tiny.store)
    pretrained = pretrain(store, tmp_path / "pretrained", load_recipe(recipe, {"pretrain.steps": 1})).path
    settings = {"crop": [16, 16, 16], "swin.drop_path": 0.2, "swin.grad_checkpointing": True, "finetune.steps": 1}
    used = Run.open(api.finetune(tiny.store, tmp_path / "segmentor", pretrained, None, tiny.recipe, settings)).recipe()
    assert (used.encoder, used.pretext, used.crop, used.encoder_settings.width) == (
        "swin",
        "simmim",
        (16, 16, 16),
        4,
    )
    assert (used.encoder_settings.drop_path, used.encoder_settings.grad_checkpointing) == (0.2, True)
    assert used.finetune.steps == 1


@pytest.mark.parametrize("kind", ["block", "body"])
def test_every_kind_of_mask_can_be_trained_and_is_shown(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    recipe = recipe_of(tmp_path, mask={"kind": kind, "ratio": 0.5, "unit": [8, 8, 4], "body_fraction": 1.0})
    run = api.pretrain(tiny.store, tmp_path / "run", recipe)
    api.reconstruct(run, [tiny.source / "imagesTr" / "case_7.nii.gz"], tmp_path / "pictures")
    assert {"block": ", in blocks", "body": ", mostly on the body"}[kind] in (run / "report.html").read_text()

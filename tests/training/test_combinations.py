"""Every pretext with every encoder that it can pre-train, through the same commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from voxmim.training.step import Stepper

from conftest import TINY_RECIPE, TINY_TRAINING, Tiny
from voxmim import api
from voxmim.errors import WeightsError
from voxmim.networks.build import ENCODERS
from voxmim.pretext.build import PRETEXTS
from voxmim.recipe import Recipe, load_recipe, make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.tasks.segmentation.evaluate import evaluate
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder

SMALL: dict[str, Any] = {
    **TINY_RECIPE,
    "crop": [16, 16, 8],
    "overlap": 0.0,
    "swin": {"patch": [2, 2, 2], "width": 4, "depths": [1, 1], "heads": [1, 2], "window": 2, "last_merge": True},
    "unet": {"width": 4, "blocks": [1, 1, 1]},
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


def recipe_of(folder: Path, **changes: Any) -> Path:
    file = folder / "recipe.yaml"
    write_recipe(file, make_recipe({**SMALL, **changes}))
    return file


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


@pytest.mark.parametrize(("pretext", "encoder"), COMBINATIONS)
def test_pre_trained_stopped_resumed_fine_tuned_and_put_to_use(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretext: str, encoder: str
) -> None:
    recipe = recipe_of(tmp_path, pretext=pretext, encoder=encoder)
    straight = api.pretrain(tiny.store, tmp_path / "straight", recipe)

    step = Stepper.step

    def stop_at_the_third(self: Stepper, batch: Any, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return step(self, batch, number)

    store = Store(tiny.store)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            pretrain(store, tmp_path / "stopped", load_recipe(recipe))
    torch.rand(7)
    stopped = pretrain(store, tmp_path / "stopped", Recipe(), resume=True).path
    assert len(trace(straight)) == 3
    assert trace(stopped) == trace(straight)
    for name in ("encoder.safetensors", "pretext.safetensors"):
        tensors, metadata = read_weights(straight / name)
        others, other_metadata = read_weights(stopped / name)
        torch.testing.assert_close(tensors, others, rtol=0, atol=0)
        assert metadata == other_metadata
        assert (metadata["pretext"], metadata["encoder"]) == (pretext, encoder)
    own = load_encoder(straight)
    assert own.encode(torch.rand(1, 1, 16, 16, 8)).shape[1] == own.width

    if encoder != "unet":
        further = {
            f"{encoder}.patch": [4, 4, 4] if encoder == "swin" else [8, 8, 4],
            "crop": [32, 32, 16],
            "pretrain.steps": 1,
        }
        another = Run.open(api.pretrain(tiny.store, tmp_path / "further", None, further, init=straight))
        assert (another.recipe().encoder, another.recipe().pretext) == (encoder, pretext)
        assert "1 adapted (" in another.about["transfer"]
        assert another.about["transfer"].endswith("100.0% of the encoder's parameters")

    segmentor, transfer = finetune(store, tmp_path / "segmentor", Run.open(straight).recipe(), straight)
    assert transfer is not None
    assert transfer.fraction == 1.0
    assert set(evaluate(segmentor.path, tiny.store)["labels"]) == {"bone", "fat"}
    scan = tiny.source / "imagesTr" / "case_7.nii.gz"
    (labels,) = api.predict(segmentor.path, [scan], tmp_path / "labels")
    assert nib.load(labels).shape == nib.load(scan).shape

    if pretext == "simclr":
        with pytest.raises(WeightsError, match="SimCLR predicts no voxels to reconstruct"):
            api.reconstruct(straight, [scan], tmp_path / "pictures")
    else:
        (picture,) = api.reconstruct(straight, [scan], tmp_path / "pictures")
        assert picture.is_file()
        hidden = np.asarray(nib.load(tmp_path / "pictures" / "case_7_mask.nii.gz").dataobj)
        assert 0.2 < hidden.mean() < 0.9  # three quarters of the box round the body
    report = (straight / "report.html").read_text()
    assert {"mae": "(MAE)", "simmim": "(SimMIM)", "simclr": "(SimCLR)"}[pretext] in report
    assert {"vit": "ViT of width", "swin": "Swin of width", "unet": "residual U-Net of width"}[encoder] in report
    assert ("data:image/png" in report) == (pretext != "simclr")


@pytest.mark.parametrize("carry", [True, False])
def test_a_unets_decoder_is_carried_along_where_it_is_told(tiny: Tiny, tmp_path: Path, carry: bool) -> None:
    recipe = recipe_of(tmp_path, encoder="unet", carry_decoder=carry)
    store, still = Store(tiny.store), {"finetune.lr": 1e-12}  # one step that moves nothing to speak of
    pretrained = pretrain(store, tmp_path / "pretrained", load_recipe(recipe, still)).path
    segmentor = finetune(store, tmp_path / "segmentor", load_recipe(recipe, still), pretrained)[0].path
    theirs, _ = read_weights(pretrained / "pretext.safetensors")
    ours, _ = read_weights(segmentor / "segmentor.safetensors")
    same = [torch.allclose(ours[name], theirs[f"network.{name}"], atol=1e-9) for name in ours if name[:4] == "deco"]
    assert len(same) > 2
    assert all(same) if carry else not any(same)
    assert (f"; and all {len(same)} of the decoder" in Run.open(segmentor).about["transfer"]) == carry


def test_a_decoder_that_is_not_there_is_not_carried(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, encoder="unet", carry_decoder=True)
    chosen = load_recipe(recipe, {"pretext": "simclr", "pretrain.steps": 1})
    pretrained = pretrain(Store(tiny.store), tmp_path / "pretrained", chosen).path
    with pytest.raises(WeightsError, match="these weights have no decoder to carry along"):
        api.finetune(tiny.store, tmp_path / "segmentor", pretrained)
    (pretrained / "pretext.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"there is no pretext\.safetensors here, but encoder\.safetensors"):
        api.finetune(tiny.store, tmp_path / "segmentor", pretrained)
    assert not (tmp_path / "segmentor").exists()


def test_a_fine_tuning_takes_encoder_and_pretext_from_the_weights_whatever_it_was_told(
    tiny: Tiny, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, encoder="swin", pretext="simmim")
    store = Store(tiny.store)
    pretrained = pretrain(store, tmp_path / "pretrained", load_recipe(recipe, {"pretrain.steps": 1})).path
    told = {"crop": [16, 16, 16], "swin.drop_path": 0.2, "swin.grad_checkpointing": True, "finetune.steps": 1}
    found = Run.open(api.finetune(tiny.store, tmp_path / "segmentor", pretrained, None, tiny.recipe, told)).recipe()
    assert (found.encoder, found.pretext, found.crop, found.encoder_settings.width) == (
        "swin",
        "simmim",
        (16, 16, 16),
        4,
    )
    assert (found.encoder_settings.drop_path, found.encoder_settings.grad_checkpointing) == (0.2, True)
    assert found.finetune.steps == 1


@pytest.mark.parametrize("kind", ["block", "body"])
def test_every_kind_of_mask_trains_and_is_shown(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    recipe = recipe_of(tmp_path, mask={"kind": kind, "ratio": 0.5, "unit": [8, 8, 4], "body_fraction": 1.0})
    run = api.pretrain(tiny.store, tmp_path / "run", recipe)
    assert trace(run) == trace(pretrain(Store(tiny.store), tmp_path / "again", load_recipe(recipe)).path)
    api.reconstruct(run, [tiny.source / "imagesTr" / "case_7.nii.gz"], tmp_path / "pictures")
    assert {"block": ", in blocks", "body": ", mostly on the body"}[kind] in (run / "report.html").read_text()

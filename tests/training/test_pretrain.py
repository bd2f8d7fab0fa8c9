from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RecipeError, RunError, StoreError
from voxmim.recipe import Recipe, fit_crop, load_recipe
from voxmim.report.reconstruct import Reconstructor
from voxmim.store import augment
from voxmim.store.crops import CropPlan
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.split import split
from voxmim.training.pretrain import pretrain, pretraining_cases
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.training.validate_pretext import Validation
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder


def recipe_of(tiny: Tiny, **changes: Any) -> Recipe:
    """The tiny recipe with other settings of the pre-training, or of the recipe for its top-level names."""
    own = {key: changes.pop(key) for key in list(changes) if key in Recipe.__dataclass_fields__}
    recipe = load_recipe(tiny.recipe)
    return replace(recipe, **own, pretrain=replace(recipe.pretrain, **changes))


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("encoder.safetensors", "pretext.safetensors"):
        tensors, metadata = read_weights(one / name)
        others, other_metadata = read_weights(other / name)
        assert metadata == other_metadata
        torch.testing.assert_close(tensors, others, rtol=0, atol=0)


def index_of(path: Path, splits: dict[str, int]) -> Store:
    """The index of a store with the given number of cases in each split."""
    cases = [
        Case(f"{split}_{i}", split, (8, 8, 8), (f"{split}_{i}.nii.gz",), digest=f"{i}")
        for split, count in splits.items()
        for i in range(count)
    ]
    Index("listed", Preparation((1, 1, 1), "ct", ("CT",)), {}, cases).write(path)
    return Store(path)


# The run folder


def test_a_run_folder_contains_everything_for_later_steps(tiny_runs: TinyRuns) -> None:
    path = tiny_runs.pretrain
    names = {file.name for file in path.iterdir()}
    assert names == {
        "recipe.yaml", "run.json", "metrics.csv", "last.ckpt", "encoder.safetensors", "pretext.safetensors",
        "report.html", "figures", "MODEL_CARD.md", "status.json",
    }  # fmt: skip
    rows = Run.open(path).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val_loss" in row] == [3, 6]
    about = json.loads((path / "run.json").read_text())
    assert (about["kind"], about["store"], about["cases"]) == ("pretrain", str(tiny_runs.store.resolve()), 6)


def test_the_weights_describe_scans(tiny_runs: TinyRuns) -> None:
    recipe, store = load_recipe(tiny_runs.recipe), Store(tiny_runs.store)
    _, metadata = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    assert metadata["preparation"] == json.loads(json.dumps(asdict(store.preparation)))
    assert tuple(metadata["window"]) == recipe.window
    assert tuple(metadata["crop"]) == recipe.crop
    assert metadata["data"] == {"name": "tiny", "digest": store.digest(), "seed": store.seed, "licence": ""}
    assert {"voxmim", "torch", "monai"} <= set(metadata["versions"])
    assert (metadata["kind"], metadata["step"], metadata["seed"]) == ("encoder", 6, recipe.seed)


def test_the_saved_encoder_is_that_of_the_pretext_network(tiny_runs: TinyRuns) -> None:
    pretext = Reconstructor.load(tiny_runs.pretrain).network
    encoder = load_encoder(tiny_runs.pretrain)
    torch.testing.assert_close(encoder.state_dict(), pretext.encoder.state_dict(), rtol=0, atol=0)
    volume = torch.rand(2, 1, 12, 12, 12)
    assert encoder(volume).shape == (2, 27, 24)


# Scans that are used


def test_labels_and_test_scans_are_never_read(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_runs.store, tmp_path / "store")
    shutil.rmtree(copy / "labels")
    for case in Store(copy).in_split("test"):
        (copy / "images" / f"{case.name}.b2nd").unlink()
    run = pretrain(Store(copy), tmp_path / "run", load_recipe(tiny_runs.recipe))
    assert trace(run.path) == trace(tiny_runs.pretrain)
    assert_same_weights(run.path, tiny_runs.pretrain)


def test_train_and_unlabelled_scans_are_used_for_training_and_val_for_validation(tiny: Tiny) -> None:
    cases, validation = pretraining_cases(Store(tiny.store), seed=0)
    assert [case.name for case in cases] == ["case_0", "case_1", "case_2", "case_3", "case_8", "case_9"]
    assert [case.name for case in validation] == ["case_4", "case_5"]


def test_a_larger_draw_of_scans_contains_the_smaller_one(tmp_path: Path) -> None:
    store = index_of(tmp_path, {"train": 15, "unlabelled": 25, "val": 3})
    every, validation = pretraining_cases(store, seed=1)
    few, many = (pretraining_cases(store, seed=1, scans=number)[0] for number in (5, 20))
    assert (len(few), len(many)) == (5, 20)
    assert [case for case in every if case in many] == many  # in the order of the store
    assert all(case in many for case in few)
    assert few != pretraining_cases(store, seed=2, scans=5)[0]
    assert pretraining_cases(store, seed=1, scans=40) == (every, validation)
    with pytest.raises(StoreError, match="it has 40 scans to pre-train on; lower scans, which is 41"):
        pretraining_cases(store, seed=1, scans=41)


@pytest.mark.parametrize(("train", "unlabelled", "kept"), [(3, 0, 0), (4, 0, 1), (15, 25, 2), (400, 600, 32)])
def test_without_a_validation_split_a_twentieth_is_held_out(
    tmp_path: Path, train: int, unlabelled: int, kept: int
) -> None:
    store = index_of(tmp_path, {"train": train, "unlabelled": unlabelled, "test": 5})
    cases, validation = pretraining_cases(store, seed=1)
    names, validation_names = {case.name for case in cases}, {case.name for case in validation}
    assert len(validation) == kept
    assert not names & validation_names
    assert not any(name.startswith("test") for name in names | validation_names)
    assert len(names) == train + unlabelled - (kept if kept < 32 else 50)  # at most 32
    assert (cases, validation) == pretraining_cases(store, seed=1)
    if kept:
        assert validation != pretraining_cases(store, seed=2)[1]


def test_a_store_without_scans_to_train_on_is_refused(tmp_path: Path) -> None:
    store = index_of(tmp_path / "store", {"test": 2, "val": 1})
    with pytest.raises(StoreError, match="no train or unlabelled case to pre-train on"):
        pretrain(store, tmp_path / "run", Recipe())
    assert not (tmp_path / "run").exists()


# Training


def test_the_loss_falls(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, steps=40, batch=4, lr=3e-3, validate_every=20, checkpoint_every=40)
    rows = trace(pretrain(Store(tiny.store), tmp_path / "run", recipe).path)
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    validated = [row["val_loss"] for row in rows if "val_loss" in row]
    assert validated[-1] < 0.9 * losses[0]


def test_the_validation_loss_is_reproducible(tiny_runs: TinyRuns) -> None:
    store, recipe = Store(tiny_runs.store), load_recipe(tiny_runs.recipe)
    network = Reconstructor.load(tiny_runs.pretrain).network
    cases = store.in_split("val")

    def loss(recipe: Recipe) -> float:
        assert recipe.crop is not None
        plan = CropPlan(recipe.crop, recipe.window, recipe.seed)
        return Validation(make_fabric(recipe), network, store, cases, plan, recipe).run()["val_loss"]

    torch.manual_seed(1)
    first = loss(recipe)
    torch.rand(5)
    assert loss(recipe) == first
    assert first == trace(tiny_runs.pretrain)[-1]["val_loss"]
    assert loss(replace(recipe, seed=1)) != first  # masks are drawn from the seed


def test_the_default_crop_is_fitted_to_the_store(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tiny.store)
    recipe = recipe_of(tiny, crop=None, crop_voxels=2500, steps=1, batch=1)
    crop = pretrain(store, tmp_path / "run", recipe).recipe().crop
    assert crop is not None
    assert crop == fit_crop([case.shape for case in store.in_split("train", "unlabelled")], (4, 4, 4), 2500)
    assert np.prod(crop) <= 2500
    assert tuple(read_weights(tmp_path / "run" / "encoder.safetensors")[1]["crop"]) == crop


def test_a_crop_larger_than_the_scans_is_padded(tiny: Tiny, tmp_path: Path) -> None:
    assert all(max(case.shape) < 32 for case in Store(tiny.store).cases.values())
    out = api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, {"crop": [32, 20, 32], "pretrain.steps": 2})
    assert len(trace(out)) == 2
    assert (out / "report.html").is_file()


# Initial weights


def test_a_pre_training_continues_from_an_encoder_on_another_store(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_runs.store, tmp_path / "other")
    index = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps(index | {"name": "another", "licence": "CC0"}))
    negligible_lr = {"pretrain.steps": 1, "pretrain.lr": 1e-12}  # one step with a negligible learning rate
    path = api.pretrain(other, tmp_path / "run", settings=negligible_lr, init=tiny_runs.pretrain)
    encoder, metadata = read_weights(path / "encoder.safetensors")
    before, known = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    torch.testing.assert_close(encoder, before, rtol=0, atol=1e-9)
    assert metadata["data"]["licence"] == "CC0"
    assert metadata["init"] == {"file": "encoder.safetensors", "data": known["data"]}
    assert Run.open(path).about["init"] == str((tiny_runs.pretrain / "encoder.safetensors").resolve())
    assert "It started from /" in (path / "report.html").read_text()

    third = api.pretrain(tiny_runs.store, tmp_path / "third", settings=negligible_lr, init=path)
    assert read_weights(third / "pretext.safetensors")[1]["init"]["init"] == metadata["init"]


def test_a_pre_training_stopped_before_its_first_checkpoint_loads_its_initial_weights_again(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    uninterrupted = api.pretrain(tiny_runs.store, tmp_path / "uninterrupted", init=tiny_runs.pretrain)
    with monkeypatch.context() as patch:
        patch.setattr(augment, "apply", stop)
        with pytest.raises(KeyboardInterrupt):
            api.pretrain(tiny_runs.store, tmp_path / "stopped", init=tiny_runs.pretrain)
    api.pretrain(tiny_runs.store, tmp_path / "stopped", resume=True)
    assert trace(tmp_path / "stopped") == trace(uninterrupted)
    assert_same_weights(tmp_path / "stopped", uninterrupted)


# Stopped, resumed, refused


def test_a_killed_run_resumes_exactly(tiny: Tiny, tmp_path: Path, start_and_kill: Callable[..., None]) -> None:
    settings = {
        "pretrain.steps": 40, "pretrain.checkpoint_every": 5, "pretrain.validate_every": 10, "pretrain.ema": 0.9,
    }  # fmt: skip
    rows = random.Random(0).randint(6, 20)
    options = [f"--set={key}={value}" for key, value in settings.items()]
    uninterrupted = api.pretrain(tiny.store, tmp_path / "uninterrupted", tiny.recipe, settings)

    out = tmp_path / "killed"
    start_and_kill(["pretrain", tiny.store, out, "--recipe", tiny.recipe, *options], out, rows)
    assert rows <= len(trace(out)) < 40
    with pytest.raises(SystemExit) as exit_info:
        main(["pretrain", str(tiny.store), str(out), "--resume"])
    assert exit_info.value.code == 0

    assert trace(out) == trace(uninterrupted)  # loss, validation and learning rate of every step
    assert_same_weights(out, uninterrupted)
    assert (out / "report.html").is_file()


def test_a_run_stopped_before_its_first_checkpoint_starts_again_and_says_so(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, recipe = Store(tiny_runs.store), load_recipe(tiny_runs.recipe)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(augment, "apply", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(store, tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "last.ckpt").exists()
    pretrain(store, tmp_path / "run", Recipe(), resume=True)  # the recipe file is ignored
    assert "run: it was stopped before its first checkpoint and starts anew." in capsys.readouterr().out
    assert trace(tmp_path / "run") == trace(tiny_runs.pretrain)
    assert_same_weights(tmp_path / "run", tiny_runs.pretrain)


def test_resuming_a_finished_run_changes_nothing(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_runs.pretrain, tmp_path / "run")
    kept = ["metrics.csv", "last.ckpt", "encoder.safetensors", "pretext.safetensors", "recipe.yaml", "run.json"]
    api.pretrain(tiny_runs.store, copy, resume=True)
    for name in kept:
        assert (copy / name).read_bytes() == (tiny_runs.pretrain / name).read_bytes(), name


def test_a_resumed_run_keeps_its_settings(tiny_runs: TinyRuns) -> None:
    with pytest.raises(RunError, match=r"a resumed run keeps its own settings; leave out mask\.ratio"):
        api.pretrain(tiny_runs.store, tiny_runs.pretrain, settings={"mask.ratio": 0.5}, resume=True)


def test_a_resumed_run_keeps_its_store(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_runs.store, tmp_path / "other")
    split(other, seed=1)
    with pytest.raises(RunError, match=r"was trained on .*store.*other"):
        api.pretrain(other, tiny_runs.pretrain, resume=True)


def test_a_new_run_in_an_occupied_folder_is_refused(tiny_runs: TinyRuns) -> None:
    before = (tiny_runs.pretrain / "metrics.csv").read_bytes()
    with pytest.raises(RunError, match="there is something here already; add --resume"):
        api.pretrain(tiny_runs.store, tiny_runs.pretrain, tiny_runs.recipe)
    assert (tiny_runs.pretrain / "metrics.csv").read_bytes() == before


def test_a_missing_run_cannot_be_resumed(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this is not a run folder"):
        api.pretrain(tiny_runs.store, tmp_path / "nothing", resume=True)
    with pytest.raises(RunError, match="this run is a finetune, but a pretrain is needed"):
        api.pretrain(tiny_runs.store, tiny_runs.finetune, resume=True)


def test_a_crop_of_a_single_patch_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    recipe = replace(load_recipe(tiny.recipe), crop=(4, 4, 4))
    with pytest.raises(RecipeError, match="single mask unit"):
        pretrain(Store(tiny.store), tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()

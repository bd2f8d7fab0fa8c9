from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RecipeError, RunError, StoreError, WeightsError
from voxmim.images.intensity import window
from voxmim.recipe import Recipe, load_recipe, write_recipe
from voxmim.settings import Augmentation
from voxmim.store import augment
from voxmim.store.format import Index, Store
from voxmim.store.writing import write_case
from voxmim.tasks.segmentation.predict import CLEANED
from voxmim.tasks.segmentation.prior import PositionPrior
from voxmim.tasks.segmentation.task import DICE, Segmentation
from voxmim.training.finetune import finetune
from voxmim.training.run import Run
from voxmim.weights.files import read_weights, save_weights
from voxmim.weights.load import load_segmentor


def recipe_of(tiny: Tiny, **changes: Any) -> Recipe:
    """The tiny recipe with other settings of the fine-tuning, or of the recipe for its top-level names."""
    own = {key: changes.pop(key) for key in list(changes) if key in Recipe.__dataclass_fields__}
    recipe = load_recipe(tiny.recipe)
    return replace(recipe, **own, finetune=replace(recipe.finetune, **changes))


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def without_speed(path: Path) -> dict[str, Any]:
    return {key: value for key, value in Run.open(path).about.items() if key != "speed"}


def assert_same_segmentor(one: Path, other: Path) -> None:
    tensors, metadata = read_weights(one / "segmentor.safetensors")
    others, other_metadata = read_weights(other / "segmentor.safetensors")
    assert metadata == other_metadata
    torch.testing.assert_close(tensors, others, rtol=0, atol=0)


def test_a_store_without_labels_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tiny.store)
    cases = [replace(case, label=None, counts={}) for case in store.cases.values()]
    Index("unlabelled", store.preparation, {}, cases).write(tmp_path / "store")
    with pytest.raises(StoreError, match="no labelled train case to fine-tune on"):
        api.finetune(tmp_path / "store", tmp_path / "run", recipe=tiny.recipe)
    assert not (tmp_path / "run").exists()


# The run folder


def test_a_run_folder_contains_everything_for_later_steps(tiny_runs: TinyRuns) -> None:
    path = tiny_runs.finetune
    assert {file.name for file in path.iterdir()} == {
        "recipe.yaml", "run.json", "metrics.csv", "last.ckpt", "segmentor.safetensors", "prior.npz", "report.html",
        "figures", "MODEL_CARD.md", "status.json",
    }  # fmt: skip
    about = json.loads((path / "run.json").read_text())
    assert about["cases"] == ["case_0", "case_1", "case_2", "case_3"]
    assert about["init"] == str((tiny_runs.pretrain / "encoder.safetensors").resolve())
    assert "100.0% of the encoder's parameters" in about["transfer"]
    rows = Run.open(path).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[-1]) == {
        "step", "seconds", "lr", "loss", "val_dice", "val_dice bone", "val_dice fat", "case case_4", "case case_5",
    }  # fmt: skip
    assert rows[-1]["val_dice"] == pytest.approx((rows[-1]["case case_4"] + rows[-1]["case case_5"]) / 2)
    assert rows[-1]["val_dice"] == pytest.approx((rows[-1]["val_dice bone"] + rows[-1]["val_dice fat"]) / 2)


def test_the_weights_describe_scans_and_labels(tiny_runs: TinyRuns) -> None:
    network, metadata = load_segmentor(tiny_runs.finetune)
    recipe = load_recipe(tiny_runs.recipe)
    assert metadata["labels"] == {"1": "bone", "2": "fat"}
    assert (metadata["overlap"], metadata["precision"]) == (recipe.overlap, recipe.precision)
    assert metadata["data"]["digest"] == Store(tiny_runs.store).digest()
    assert network(torch.rand(1, 1, 12, 12, 12)).shape == (1, 3, 12, 12, 12)


def test_the_prior_is_fitted_on_the_training_cases(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tiny.store)
    run, _ = finetune(store, tmp_path / "run", recipe_of(tiny, steps=1, batch=1), labels="3")
    names = Run.open(run.path).about["cases"]
    assert len(names) == 3
    expected = PositionPrior.fit([store.label_map(name) for name in names], store.labels)
    prior = PositionPrior.load(run.path / "prior.npz")
    np.testing.assert_array_equal(prior.probability, expected.probability)
    assert (prior.labels, prior.factor) == (expected.labels, expected.factor)


def test_validation_is_the_dice_of_complete_scans(tiny: Tiny) -> None:
    """A network that labels all soft tissue as bone and nothing as fat, scored by hand."""

    class SoftTissueIsBone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device = nn.Parameter(torch.zeros(1))

        def forward(self, volume: Tensor) -> Tensor:
            return torch.cat([0.3 - volume, volume - 0.3, torch.full_like(volume, -9)], dim=1)

    store, recipe = Store(tiny.store), load_recipe(tiny.recipe)
    task, network = Segmentation.choose(store, None, 0, None), SoftTissueIsBone()
    cases = task.val
    figures = task.figures({case.name: task.score_case(network, case, recipe) for case in cases})
    scores = []
    for case in cases:
        predicted = window(store.image(case.name), "ct", recipe.window)[0] > 0.3
        bone = store.label_map(case.name) == 1
        scores.append(2 * (predicted & bone).sum() / (predicted.sum() + bone.sum()))
    assert min(scores) > 0.01
    assert figures["val_dice bone"] == pytest.approx(np.mean(scores))
    assert figures["val_dice fat"] == 0.0
    assert figures["val_dice"] == pytest.approx(np.mean(scores) / 2)


def test_the_weights_of_the_best_validation_are_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = iter([0.1, 0.1, 0.6, 0.6, 0.3, 0.3, 0.6, 0.6])  # for each of the two validation cases
    states: list[dict[str, Tensor]] = []

    def scripted(task: object, network: nn.Module, *_: object) -> dict[str, dict[str, float]]:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {DICE: {"bone": next(dice)}, CLEANED: {}}

    monkeypatch.setattr(Segmentation, "score_case", scripted)
    run, _ = finetune(Store(tiny.store), tmp_path / "run", recipe_of(tiny, steps=4, validate_every=1))
    tensors, metadata = read_weights(run.path / "segmentor.safetensors")
    assert metadata["step"] == 2
    torch.testing.assert_close(tensors, states[2], rtol=0, atol=0)
    assert not torch.equal(states[2]["out.conv.conv.bias"], states[6]["out.conv.conv.bias"])


def test_without_validation_cases_the_last_weights_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tiny.store)
    for case in store.in_split("val"):
        store.cases[case.name] = replace(case, split="test")
    run, _ = finetune(store, tmp_path / "run", recipe_of(tiny, steps=3))
    metadata = read_weights(run.path / "segmentor.safetensors")[1]
    assert (metadata["step"], metadata[CLEANED]) == (3, [])
    assert all("val_dice" not in row for row in trace(run.path))


def test_training_does_not_depend_on_the_values_of_labels(tiny: Tiny, tmp_path: Path) -> None:
    """Other values, and labels that are listed but in no case."""
    store = Store(tiny.store)
    other = shutil.copytree(tiny.store, tmp_path / "store")
    counts = {0: 0, 1: 7, 2: 255}
    cases = []
    for case in store.cases.values():
        label = None
        if case.label:
            label = np.uint8([0, 7, 255])[store.label_map(case.name)]
        moved = {counts[value]: count for value, count in case.counts.items()}
        cases.append(write_case(other, replace(case, counts=moved), store.image(case.name), label))
    labels = {7: "bone", 255: "fat", 9: "never seen"}
    Index(store.name, store.preparation, labels, cases).write(other)
    recipe = recipe_of(tiny, steps=3, augmentation=Augmentation(flip=0, rot90=0))
    plain, _ = finetune(store, tmp_path / "plain", recipe)
    moved_run, _ = finetune(Store(other), tmp_path / "moved", recipe)
    assert trace(moved_run.path) == trace(plain.path)
    assert load_segmentor(moved_run.path)[0](torch.rand(1, 1, 12, 12, 12)).shape[1] == 3


# Initial weights


def test_the_weights_of_the_encoder_are_loaded(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    encoder, _ = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    negligible_lr = recipe_of(tiny_runs, steps=1, lr=1e-12)  # one step with a negligible learning rate
    loaded = {}
    for name, init in (("pretrained", tiny_runs.pretrain), ("scratch", None)):
        run, transfer = finetune(Store(tiny_runs.store), tmp_path / name, negligible_lr, init)
        tensors, _ = read_weights(run.path / "segmentor.safetensors")
        loaded[name] = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("enc")}
        assert (transfer is None) == (init is None)
    torch.testing.assert_close(loaded["pretrained"], encoder, rtol=0, atol=1e-9)
    assert not torch.allclose(loaded["scratch"]["blocks.0.mlp.0.weight"], encoder["blocks.0.mlp.0.weight"])


def test_encoder_settings_and_crop_come_from_the_weights(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    other = recipe_of(tiny_runs, steps=1, batch=1, crop=None, window=(-10, 10))
    write_recipe(
        tmp_path / "other.yaml",
        replace(other, encoder_settings=replace(other.encoder_settings, width=48, depth=1, drop_path=0.25)),
    )
    init = tiny_runs.pretrain / "encoder.safetensors"
    run = Run.open(api.finetune(tiny_runs.store, tmp_path / "run", init, recipe=tmp_path / "other.yaml"))
    own = load_recipe(tiny_runs.recipe)
    recipe = run.recipe()
    assert recipe.encoder_settings == replace(own.encoder_settings, drop_path=0.25)
    assert (recipe.crop, recipe.window) == (own.crop, own.window)


def test_a_given_patch_and_window_override_those_of_the_weights(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    settings = {"vit.patch": [4, 4, 2], "window": [-100, 100], "finetune.steps": 1}
    path = api.finetune(tiny_runs.store, tmp_path / "run", tiny_runs.pretrain, settings=settings)
    run = Run.open(path)
    assert (run.recipe().encoder_settings.patch, run.recipe().window) == ((4, 4, 2), (-100, 100))
    assert "1 adapted (embed.weight: patch (4, 4, 4) to (4, 4, 2))" in run.about["transfer"]
    assert load_segmentor(path)[0].encoder.patch == (4, 4, 2)
    with pytest.raises(WeightsError, match=r"first that do not are embed\.weight: \(24, 64\) in the file, \(48, 64\)"):
        api.finetune(tiny_runs.store, tmp_path / "wide", tiny_runs.pretrain, settings={"vit.width": 48})
    assert not (tmp_path / "wide").exists()


def test_the_default_recipe_is_that_of_the_pre_training(tiny_runs: TinyRuns) -> None:
    assert Run.open(tiny_runs.finetune).recipe() == Run.open(tiny_runs.pretrain).recipe()


def test_training_from_scratch_has_its_own_learning_rate(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_runs, steps=1, batch=1, lr=1e-3, scratch_lr=5e-5)
    store = Store(tiny_runs.store)
    scratch, _ = finetune(store, tmp_path / "scratch", recipe)
    pretrained, _ = finetune(store, tmp_path / "pretrained", recipe, tiny_runs.pretrain)
    assert (scratch.recipe().finetune.lr, pretrained.recipe().finetune.lr) == (5e-5, 1e-3)
    assert (trace(scratch.path)[0]["lr"], trace(pretrained.path)[0]["lr"]) == (5e-5, 1e-3)


def test_only_a_pre_trained_encoder_has_layer_decay(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    recipe, store = recipe_of(tiny_runs, steps=1, batch=1, layer_decay=0.5), Store(tiny_runs.store)
    scratch, _ = finetune(store, tmp_path / "scratch", recipe)
    pretrained, _ = finetune(store, tmp_path / "pretrained", recipe, tiny_runs.pretrain)
    assert (scratch.recipe().finetune.layer_decay, pretrained.recipe().finetune.layer_decay) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({"intensity": "mr"}, ["The weights were trained on MR, but these scans are CT."]),
        ({"spacing": [1, 2, 1]}, ["The weights were trained on voxels of 1 x 2 x 1 mm, but these scans have "
                                  "1 x 1 x 1 mm."]),
        ({"channels": ["T1"]}, ["The weights were trained on the channels T1, but these scans have CT: one replaces "
                                "the other."]),
        ({"channels": ["ct"]}, []),
    ],
)  # fmt: skip
def test_weights_of_other_scans_are_used_with_a_warning(
    tiny_runs: TinyRuns,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    warnings: list[str],
) -> None:
    tensors, metadata = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    metadata["preparation"] |= changes
    metadata["inputs"] = metadata["preparation"]["channels"]
    metadata["window"] = [-1, 1]
    holder = nn.Module()
    holder.state_dict = lambda: tensors  # type: ignore[method-assign,assignment]
    save_weights(tmp_path / "other.safetensors", holder, metadata)
    init, settings = tmp_path / "other.safetensors", {"finetune.steps": 1}
    run = Run.open(api.finetune(tiny_runs.store, tmp_path / "run", init, recipe=tiny_runs.recipe, settings=settings))
    assert run.about["warnings"] == warnings
    printed = " ".join(capsys.readouterr().out.split())
    report = (run.path / "report.html").read_text()
    assert all(sentence in printed for sentence in warnings)
    assert all(sentence.split("'")[0] in report for sentence in warnings)
    own = load_recipe(tiny_runs.recipe).window
    assert run.recipe().window == (own if metadata["preparation"]["intensity"] == "mr" else (-1, 1))


def test_a_fine_tuning_ignores_the_mask_unit_but_checks_the_patch(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    tensors, metadata = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    metadata["mask"]["unit"] = [12, 12, 4]
    holder = nn.Module()
    holder.state_dict = lambda: tensors  # type: ignore[method-assign,assignment]
    save_weights(tmp_path / "encoder.safetensors", holder, metadata)
    settings = {"crop": [16, 16, 8], "finetune.steps": 1}
    run = Run.open(
        api.finetune(tiny_runs.store, tmp_path / "run", tmp_path, recipe=tiny_runs.recipe, settings=settings)
    )
    assert (run.recipe().crop, run.recipe().mask.unit) == ((16, 16, 8), (12, 12, 4))
    with pytest.raises(RecipeError, match=r"crop \(10, 10, 10\) is not a multiple of the vit's patch \(4, 4, 4\)"):
        api.finetune(tiny_runs.store, tmp_path / "odd", tmp_path, recipe=tiny_runs.recipe, settings={"crop": [10] * 3})
    assert not (tmp_path / "odd").exists()


def test_the_segmentor_records_the_origin_of_its_encoder_without_a_path(tiny_runs: TinyRuns) -> None:
    _, encoder = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    _, metadata = read_weights(tiny_runs.finetune / "segmentor.safetensors")
    assert metadata["init"] == {"file": "encoder.safetensors", "data": encoder["data"]}
    assert str(tiny_runs.pretrain) not in json.dumps(metadata)


def test_weights_without_an_encoder_are_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "pretext").mkdir()
    shutil.copy(tiny_runs.pretrain / "pretext.safetensors", tmp_path / "pretext")
    with pytest.raises(WeightsError, match=r"there is no encoder\.safetensors here, but pretext\.safetensors"):
        api.finetune(tiny_runs.store, tmp_path / "run", init=tmp_path / "pretext", recipe=tiny_runs.recipe)
    with pytest.raises(WeightsError, match="there is no encoder"):
        api.finetune(tiny_runs.store, tmp_path / "run", init=tmp_path / "nothing", recipe=tiny_runs.recipe)


# Stopped, resumed, refused


def test_a_killed_run_resumes_exactly(tiny_runs: TinyRuns, tmp_path: Path, start_and_kill: Callable[..., None]) -> None:
    settings = {"finetune.steps": 40, "finetune.checkpoint_every": 5, "finetune.validate_every": 8}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    uninterrupted = api.finetune(tiny_runs.store, tmp_path / "uninterrupted", tiny_runs.pretrain, 3, settings=settings)

    out = tmp_path / "killed"
    command = ["finetune", tiny_runs.store, out, "--init", tiny_runs.pretrain, "--labels", "3", *options]
    start_and_kill(command, out, rows=9)
    assert 9 <= len(trace(out)) < 40
    with pytest.raises(SystemExit) as exit_info:
        main(["finetune", str(tiny_runs.store), str(out), "--resume"])
    assert exit_info.value.code == 0

    assert trace(out) == trace(uninterrupted)
    assert without_speed(out) == without_speed(uninterrupted)
    assert_same_segmentor(out, uninterrupted)


def test_a_run_stopped_before_its_first_step_resumes(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name, owner, what in (("step", augment, "apply"), ("prior", PositionPrior, "fit")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, what, stop)
            with pytest.raises(KeyboardInterrupt):
                api.finetune(tiny_runs.store, tmp_path / name, tiny_runs.pretrain)
        finetune(Store(tiny_runs.store), tmp_path / name, Recipe(), resume=True)
        assert trace(tmp_path / name) == trace(tiny_runs.finetune)
        assert_same_segmentor(tmp_path / name, tiny_runs.finetune)
        assert PositionPrior.load(tmp_path / name / "prior.npz").labels == (1, 2)


def test_resuming_a_finished_run_changes_nothing(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    api.finetune(tiny_runs.store, copy, resume=True)
    for name in ("metrics.csv", "last.ckpt", "segmentor.safetensors", "prior.npz", "recipe.yaml", "run.json"):
        assert (copy / name).read_bytes() == (tiny_runs.finetune / name).read_bytes(), name


def test_invalid_starts_and_resumes_are_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    store = tiny_runs.store
    with pytest.raises(RunError, match=r"a resumed run keeps its own settings; leave out finetune\.lr"):
        api.finetune(store, tiny_runs.finetune, settings={"finetune.lr": 1.0}, resume=True)
    with pytest.raises(RunError, match="this run is a pretrain, but a finetune is needed"):
        api.finetune(store, tiny_runs.pretrain, resume=True)
    with pytest.raises(RunError, match="there is something here already"):
        api.finetune(store, tiny_runs.finetune, recipe=tiny_runs.recipe)
    other = Store(store)
    del other.cases["case_8"]
    Index("other", other.preparation, other.labels, list(other.cases.values())).write(tmp_path / "other")
    with pytest.raises(RunError, match=r"was trained on .*, and .*other holds other data"):
        api.finetune(tmp_path / "other", tiny_runs.finetune, resume=True)


def test_a_run_resumes_with_a_moved_store(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    moved = shutil.copytree(tiny_runs.store, tmp_path / "moved")
    api.finetune(moved, run, resume=True)
    assert Run.open(run).metrics()[-1]["step"] == 6


def test_a_crop_larger_than_the_scans_is_padded(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, crop=(24, 12, 24), steps=1, batch=1, foreground=1.0)
    run, _ = finetune(Store(tiny.store), tmp_path / "run", recipe, labels="1")
    assert "val_dice" in trace(run.path)[0]


def test_a_resumed_run_names_a_case_missing_in_the_store(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_runs.finetune, run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "cases": ["case_gone"]}))
    with pytest.raises(StoreError, match="case_gone"):
        finetune(Store(tiny_runs.store), run, Run.open(run).recipe(), resume=True)

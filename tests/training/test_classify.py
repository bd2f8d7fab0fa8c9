from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from torch import Tensor, nn

from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RunError, SourceError, StoreError
from voxmim.images.intensity import window
from voxmim.recipe import load_recipe
from voxmim.store.format import Index, Store
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.classification.labels import draw_splits
from voxmim.tasks.classification.scan_task import train_names
from voxmim.tasks.classification.task import Classification, class_weights
from voxmim.training.finetune import finetune
from voxmim.training.run import Run
from voxmim.training.validation import Validation
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_classifier


def train_on(data: Sorted, out: Path, **options: Any) -> Path:
    """Fine-tune a classifier of the shared scans, with other options if given."""
    defaults = {"recipe": data.recipe, "classes": data.classes, "task": "classification"}
    return api.finetune(data.store, out, **(defaults | options))


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def with_splits(data: Sorted, path: Path, split_of: Callable[[int], str]) -> Path:
    """The shared store with other splits."""
    shutil.copytree(data.store, path)
    store = Store(path)
    cases = [replace(case, split=split_of(int(case.name.split("_")[1]))) for case in store.cases.values()]
    Index(store.name, store.preparation, store.labels, cases, seed=5).write(path)
    return path


# Training


def test_a_classifier_learns_the_classes(tiny_sorted: Sorted, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_sorted.run, tmp_path / "run")
    result = api.evaluate(run, tiny_sorted.store)
    assert result["auroc"]["value"] >= 0.85
    assert result["balanced_accuracy"]["value"] >= 0.8


def test_a_linear_probe_learns_the_classes_and_does_not_change_the_encoder(
    tiny_sorted: Sorted, tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    settings = {"finetune.freeze": 1, "finetune.lr": 0.02, "finetune.steps": 40}
    run = train_on(tiny_sorted, tmp_path / "probe", init=tiny_runs.pretrain, settings=settings)
    encoder, _ = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    for name in ("classifier.safetensors", "last.ckpt"):
        tensors = read_weights(run / name)[0] if name != "last.ckpt" else torch.load(run / name)["network"]
        kept = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}
        torch.testing.assert_close(kept, encoder, rtol=0, atol=0)
    assert api.evaluate(run, tiny_sorted.store)["auroc"]["value"] >= 0.75
    assert "100.0% of the encoder's parameters" in Run.open(run).about["transfer"]


def test_fine_tuning_changes_the_encoder(tiny_sorted: Sorted, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    settings = {"finetune.steps": 2}
    tensors, _ = read_weights(
        train_on(tiny_sorted, tmp_path / "run", init=tiny_runs.pretrain, settings=settings) / "classifier.safetensors"
    )
    encoder, _ = read_weights(tiny_runs.pretrain / "encoder.safetensors")
    assert not torch.equal(tensors["encoder.blocks.0.mlp.0.weight"], encoder["blocks.0.mlp.0.weight"])
    assert torch.all(tensors["spread"] == 1)  # features are not scaled when the encoder is trained


@pytest.mark.parametrize("encoder", ["swin", "unet"])
def test_other_encoders_can_be_trained_as_classifiers(tiny_sorted: Sorted, tmp_path: Path, encoder: str) -> None:
    settings: dict[str, Any] = {
        "encoder": encoder, "pretext": "simclr", "finetune.steps": 2, "crop": [16, 16, 16],
        "swin.patch": [2, 2, 2], "swin.width": 4, "swin.depths": [1, 1], "swin.heads": [1, 2], "swin.window": 4,
        "unet.width": 4, "unet.blocks": [1, 1, 1],
    }  # fmt: skip
    run = train_on(tiny_sorted, tmp_path / "run", settings=settings)
    assert len(api.evaluate(run, tiny_sorted.store)["cases"]) == 6


def test_a_rare_class_has_the_same_weight_as_a_frequent_one() -> None:
    truth = [0, 0, 0, 1, 2, 2]
    weights = class_weights(truth, 3)
    totals = [sum(float(weights[k]) for k in truth if k == one) for one in range(3)]
    assert totals == pytest.approx([2.0, 2.0, 2.0])


# The run folder


def test_a_run_folder_contains_everything_for_later_steps(tiny_sorted: Sorted) -> None:
    path = tiny_sorted.run
    assert {file.name for file in path.iterdir()} >= {
        "recipe.yaml", "run.json", "metrics.csv", "last.ckpt", "classifier.safetensors", "report.html",
    }  # fmt: skip
    about = json.loads((path / "run.json").read_text())
    assert (about["kind"], about["task"], about["notes"]) == ("finetune", "classification", [])
    assert sorted(about["cases"]) == sorted(about["listed"]["train"])
    assert {split: len(cases) for split, cases in about["listed"].items()} == {"train": 18, "val": 6, "test": 6}
    assert about["listed"]["test"]["scan_25"] == "dense"
    rows = Run.open(path).metrics()
    assert set(rows[-1]) == {
        "step", "seconds", "lr", "loss", "val_loss", "val_balanced_accuracy", "val_auroc", "val_score",
    }  # fmt: skip
    network, metadata = load_classifier(path)
    assert metadata["classes"] == ["dense", "light"]
    assert metadata["data"]["digest"] == Store(tiny_sorted.store).digest()
    assert network(torch.rand(1, 1, 12, 12, 12)).shape == (1, 2)


def test_validation_uses_complete_scans(tiny_sorted: Sorted) -> None:
    class Brightest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device = nn.Parameter(torch.zeros(1))

        def forward(self, volume: Tensor) -> Tensor:
            bright = volume.amax(dim=(1, 2, 3, 4)) - volume.mean(dim=(1, 2, 3, 4)) - 0.45
            return torch.stack([bright, -bright], dim=1)

    store, recipe, network = Store(tiny_sorted.store), load_recipe(tiny_sorted.recipe), Brightest()
    task = Classification.resume(store, Run.open(tiny_sorted.run).about, 0)
    truth = task.listed["train"]
    figures = task.figures({case.name: task.score_case(network, case, recipe) for case in task.train})
    given = []
    for case in truth:
        image = torch.from_numpy(window(store.image(case), "ct", recipe.window))
        given.append(class_probabilities(network, image, (12, 12, 12), "32").numpy())
    index, light = np.array([name == "light" for name in truth.values()]), np.array(given)[:, 1]
    assert list(truth) == [case.name for case in task.train]
    assert figures["val_auroc"] == pytest.approx(roc_auc_score(index, light))
    assert figures["val_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(index, light > 0.5))
    assert figures["val_loss"] == pytest.approx(log_loss(index, light), rel=1e-4)  # the classes are balanced
    assert 0 < figures["val_auroc"] - figures["val_score"] < 1e-3


def test_the_best_auroc_is_kept_and_with_equal_auroc_the_lowest_loss(
    tiny_sorted: Sorted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations = iter([(0.75, 0.1), (1.0, 0.9), (1.0, 0.4), (1.0, 0.5), (0.9, 0.1)])  # AUROC and loss

    def scripted(task: object, scores: object) -> dict[str, float]:
        auroc, loss = next(validations)
        return {"val_auroc": auroc, "val_balanced_accuracy": 0.5, "val_loss": loss, "val_score": auroc - 1e-5 * loss}

    class Scripted(Validation):
        """Computes the metrics of each validation once."""

        def __call__(self, step: int) -> dict[str, float]:
            figures = scripted(None, None)
            self.figures = lambda scores: figures if scores else {}
            return super().__call__(step)

    monkeypatch.setattr("voxmim.training.finetune.Validation", Scripted)
    run = train_on(tiny_sorted, tmp_path / "run", settings={"finetune.steps": 5, "finetune.validate_every": 1})
    assert read_weights(run / "classifier.safetensors")[1]["step"] == 3


def test_without_validation_cases_the_last_weights_are_kept(tiny_sorted: Sorted, tmp_path: Path) -> None:
    store = with_splits(tiny_sorted, tmp_path / "store", lambda number: "train" if number < 20 else "test")
    run = train_on(replace(tiny_sorted, store=store), tmp_path / "run", settings={"finetune.steps": 3})
    assert read_weights(run / "classifier.safetensors")[1]["step"] == 3
    assert all("val_score" not in row for row in trace(run))


def test_validation_cases_of_one_class_are_compared_by_the_loss(tiny_sorted: Sorted, tmp_path: Path) -> None:
    store = with_splits(tiny_sorted, tmp_path / "store", lambda number: "val" if number in (1, 3) else "train")
    run = train_on(replace(tiny_sorted, store=store), tmp_path / "run", settings={"finetune.steps": 2})
    last = trace(run)[-1]
    assert "val_auroc" not in last
    assert last["val_score"] == pytest.approx(-1e-5 * last["val_loss"])


# Selection of cases


def test_a_store_without_splits_gets_a_fixed_split(
    tiny_sorted: Sorted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(tiny_sorted, store=with_splits(tiny_sorted, tmp_path / "store", lambda _: "unlabelled"))
    run = train_on(bare, tmp_path / "run", settings={"finetune.steps": 1, "seed": 3})
    assert "has no split of these cases, so one was drawn: 18 to train, 4 to validate, 8 to test" in (
        " ".join(capsys.readouterr().err.split())
    )
    listed = Run.open(run).about["listed"]
    for split, count in (("train", 9), ("val", 2), ("test", 4)):
        assert Counter(listed[split].values()) == {"dense": count, "light": count}
    assert Classification.list_cases(Store(bare.store), tiny_sorted.classes)[0] == listed  # for any seed of the run
    drawn = draw_splits({case: name for cases in listed.values() for case, name in cases.items()}, seed=5)
    assert {case: split for split, cases in listed.items() for case in cases} == drawn
    result = api.evaluate(run, bare.store)
    assert {case["case"]: case["class"] for case in result["cases"]} == listed["test"]


def test_cases_that_are_left_out_are_reported(tiny_sorted: Sorted, tmp_path: Path) -> None:
    store = Store(with_splits(tiny_sorted, tmp_path / "store", lambda n: "unlabelled" if n > 27 else "train"))
    table = tmp_path / "classes.csv"
    table.write_text(tiny_sorted.classes.read_text().replace("scan_0,", "scan_x,"))
    listed, notes = Classification.list_cases(store, table)
    assert sorted(listed["train"]) == sorted(f"scan_{number}" for number in range(1, 28))
    assert [line.split(" in ")[0] for line in notes] == [
        "1 case (scan_x) listed", "1 case (scan_0)", "2 listed cases",
    ]  # fmt: skip


def test_labels_draws_from_each_class_and_smaller_draws_are_subsets(tiny_sorted: Sorted) -> None:
    store = Store(tiny_sorted.store)
    listed = {"train": {f"scan_{i}": "rare" if i in (3, 8) else "often" for i in range(18)}}
    former: set[str] = set()
    for count in range(2, 19):
        chosen = train_names(store, listed["train"], str(count), seed=1)
        assert len(chosen) == count
        assert former < set(chosen)
        assert {listed["train"][case] for case in chosen} == {"rare", "often"}
        former = set(chosen)
    assert train_names(store, listed["train"], "0.5", 1) == train_names(store, listed["train"], "9", 1)
    assert len(train_names(store, listed["train"], "0.01", 1)) == 2
    assert train_names(store, listed["train"], None, 1) == list(listed["train"])
    with pytest.raises(StoreError, match=r"--labels 1: give all, a fraction such as 0\.1 or a number from 2 to 18"):
        train_names(store, listed["train"], "1", 1)


def test_a_class_without_enough_cases_is_refused(tiny_sorted: Sorted, tmp_path: Path) -> None:
    text, table = tiny_sorted.classes.read_text(), tmp_path / "classes.csv"
    table.write_text(text.replace("scan_25,dense", "scan_25,odd"))
    with pytest.raises(StoreError, match=r"classes\.csv: no case of the class odd is in the split 'train' of .*store"):
        train_on(tiny_sorted, tmp_path / "run", classes=table)
    table.write_text("case,class\nscan_1,dense\nscan_3,dense\nelsewhere,light")
    with pytest.raises(StoreError, match="holds cases of dense only; add cases of another class"):
        train_on(tiny_sorted, tmp_path / "run", classes=table)
    table.write_text("case,class\na,dense\nb,light")
    with pytest.raises(SourceError, match=r"none of its cases is in .*store, not 'a'"):
        train_on(tiny_sorted, tmp_path / "run", classes=table)
    with pytest.raises(RunError, match="give a CSV file with --classes"):
        train_on(tiny_sorted, tmp_path / "run", classes=None)
    with pytest.raises(RunError, match="--classes is not for a segmentation; leave it out"):
        train_on(tiny_sorted, tmp_path / "run", task=None)
    with pytest.raises(RunError, match=r"'classify' is no task of a fine-tuning .*; did you mean 'classification'"):
        train_on(tiny_sorted, tmp_path / "run", task="classify")
    assert not (tmp_path / "run").exists()


# Stopped and resumed


def test_a_stopped_run_resumes_exactly(
    tiny_sorted: Sorted, tmp_path: Path, stop_before_step: Callable[[int], AbstractContextManager[None]]
) -> None:
    settings = {"finetune.steps": 8, "finetune.checkpoint_every": 3, "finetune.validate_every": 4}
    uninterrupted = train_on(tiny_sorted, tmp_path / "uninterrupted", labels=6, settings=settings)
    out = tmp_path / "stopped"
    with stop_before_step(5):
        train_on(tiny_sorted, out, labels=6, settings=settings)
    with pytest.raises(RunError, match="leave out task, classes"):
        api.finetune(tiny_sorted.store, out, resume=True, task="classification", classes=tiny_sorted.classes)
    with pytest.raises(SystemExit) as exit_info:
        main(["finetune", str(tiny_sorted.store), str(out), "--resume"])
    assert exit_info.value.code == 0
    assert trace(out) == trace(uninterrupted)
    resumed, theirs = Run.open(out).about, Run.open(uninterrupted).about
    assert resumed | {"speed": 0} == theirs | {"speed": 0}
    tensors, metadata = read_weights(out / "classifier.safetensors")
    expected, expected_metadata = read_weights(uninterrupted / "classifier.safetensors")
    torch.testing.assert_close(tensors, expected, rtol=0, atol=0)
    assert metadata == expected_metadata


def test_a_run_stopped_before_its_first_step_loads_its_initial_weights_again(
    tiny_sorted: Sorted, tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    options = {"init": tiny_runs.pretrain, "settings": {"finetune.steps": 2}}
    uninterrupted = train_on(tiny_sorted, tmp_path / "uninterrupted", **options)
    with monkeypatch.context() as patch:
        patch.setattr("voxmim.store.augment.apply", stop)
        with pytest.raises(KeyboardInterrupt):
            train_on(tiny_sorted, tmp_path / "run", **options)
    run, _ = finetune(Store(tiny_sorted.store), tmp_path / "run", load_recipe(tiny_sorted.recipe), resume=True)
    assert trace(run.path) == trace(uninterrupted)

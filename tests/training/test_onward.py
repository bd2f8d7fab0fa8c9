"""Further training of a segmentor with the same, more or other labels, and folds of a cross-validation."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Sorted, Tiny, TinyRuns
from voxmim import api
from voxmim.errors import RecipeError, SourceError
from voxmim.store.format import Store
from voxmim.store.writing import write_case
from voxmim.tasks.scans import source_in_fold
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_classifier, load_segmentor
from voxmim.weights.start import settings_from

RunVoxmim = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def good(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentor that segments both labels to some extent."""
    settings = {"finetune.steps": 60, "finetune.validate_every": 30, "finetune.lr": 5e-3, "scratch_lr": 5e-3}
    return api.finetune(tiny.store, tmp_path_factory.mktemp("good") / "run", recipe=tiny.recipe, settings=settings)


def relabelled(tiny: Tiny, path: Path, labels: dict[int, str], change: Callable[[np.ndarray], None]) -> Path:
    """The tiny store with other label names and label maps."""
    shutil.copytree(tiny.store, path)
    store, cases = Store(tiny.store), []
    for case in store.cases.values():
        label_map = store.label_map(case.name).copy() if case.label else None
        if label_map is not None:
            change(label_map)
        cases.append(write_case(path, case, store.image(case.name), label_map))
    replace(store.index, labels=labels, cases=cases).write(path)
    return path


def continue_training(store: Path, out: Path, init: Path, steps: int = 0, **options: Any) -> Path:
    return api.finetune(store, out, init=init, settings={"finetune.steps": steps}, **options)


def add_corner(label_map: np.ndarray) -> None:
    label_map[:3, :3, :3] = 5


def dice(run: Path, store: Path) -> dict[str, float]:
    return {name: scores["dice"] for name, scores in api.evaluate(run, store, "val")["labels"].items()}


# Labels are matched by name


def test_no_steps_with_the_same_labels_give_the_same_network(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    run = continue_training(tiny.store, tmp_path / "run", good)
    torch.testing.assert_close(read_weights(run, "segmentor")[0], read_weights(good, "segmentor")[0], rtol=0, atol=0)
    assert dice(run, tiny.store) == dice(good, tiny.store)
    assert "labels kept: bone, fat" in Run.open(run).about["transfer"]
    assert (run / "report.html").is_file()
    rows = Run.open(run).metrics()
    assert [row["step"] for row in rows] == [0]
    assert rows[0]["val_dice"] == pytest.approx(max(row.get("val_dice", 0) for row in Run.open(good).metrics()))


def test_no_steps_with_one_more_label_give_the_same_dice(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    labels = {1: "bone", 2: "fat", 5: "corner"}
    more = relabelled(tiny, tmp_path / "more", labels, add_corner)
    run = continue_training(more, tmp_path / "run", good)
    before = dice(good, tiny.store)
    assert max(before.values()) > 0.5  # the network has learned something
    assert _val_dice(run) == pytest.approx(_val_dice(good), abs=1e-3)
    after = dice(run, more)
    assert {name: after[name] for name in before} == pytest.approx(before, abs=1e-3)
    assert load_segmentor(run)[1]["values"] == [0, 1, 2, 5]
    assert "labels kept: bone, fat; new: corner" in Run.open(run).about["transfer"]


def _val_dice(run: Path) -> dict[str, float]:
    best = max((row for row in Run.open(run).metrics() if "val_dice" in row), key=lambda row: row["val_dice"])
    return {name: best[f"val_dice {name}"] for name in ("bone", "fat")}


def test_labels_are_matched_by_name_for_any_values(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    def exchange(label_map: np.ndarray) -> None:
        label_map[:] = np.array([0, 2, 1], dtype=np.uint8)[label_map]

    run = continue_training(
        relabelled(tiny, tmp_path / "store", {1: "Fat", 2: "bone"}, exchange), tmp_path / "run", good
    )
    new, old = (read_weights(each, "segmentor")[0]["out.conv.conv.weight"] for each in (run, good))
    torch.testing.assert_close(new, old[[0, 2, 1]], rtol=0, atol=0)


def test_other_labels_get_a_new_head_on_the_same_decoder(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    run = continue_training(
        relabelled(tiny, tmp_path / "store", {1: "liver", 2: "spleen"}, lambda _: None), tmp_path / "run", good
    )
    new, old = (read_weights(each, "segmentor")[0] for each in (run, good))
    same = {name for name, tensor in new.items() if torch.equal(tensor, old[name])}
    assert {name for name in new.keys() - same if not name.startswith("encoder.")} <= {
        "out.conv.conv.weight", "out.conv.conv.bias",
    }  # fmt: skip
    assert "out.conv.conv.weight" not in same
    assert "new: liver, spleen; no longer learned: bone, fat" in Run.open(run).about["transfer"]


def test_a_new_label_is_learned_in_addition_to_the_old_ones(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    more = relabelled(tiny, tmp_path / "more", {1: "bone", 2: "fat", 5: "corner"}, add_corner)
    old = read_weights(continue_training(more, tmp_path / "start", good), "segmentor")[0]["out.conv.conv.weight"]
    new = read_weights(continue_training(more, tmp_path / "run", good, steps=2), "segmentor")[0]["out.conv.conv.weight"]
    assert torch.all((new != old).flatten(1).any(1))


def test_a_label_missing_in_the_selected_cases_is_kept(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    def without_fat(label_map: np.ndarray) -> None:
        label_map[label_map == 2] = 0

    store = relabelled(tiny, tmp_path / "store", {1: "bone", 2: "fat"}, without_fat)
    run = continue_training(store, tmp_path / "run", good)
    assert load_segmentor(run)[1]["labels"] == {"1": "bone", "2": "fat"}
    assert Run.open(run).about["known"] == ["bone", "fat"]


def test_from_labels_to_regions_the_head_is_new(tiny: Tiny, good: Path, tmp_path: Path) -> None:
    """The heads of labels and regions have different meanings, so their weights are not kept."""
    shutil.copytree(tiny.store, tmp_path / "store")
    index = replace(Store(tiny.store).index, regions={"bone": (1,), "all": (1, 2)})
    index.write(tmp_path / "store")
    regions = continue_training(tmp_path / "store", tmp_path / "regions", good)
    assert "new: bone, all" in Run.open(regions).about["transfer"]
    replace(index, regions={"bone": (1,), "fat": (2,), "all": (1, 2)}).write(tmp_path / "store")
    more = continue_training(tmp_path / "store", tmp_path / "more", regions)
    head, old = (read_weights(run, "segmentor")[0] for run in (more, regions))
    torch.testing.assert_close(head["out.conv.conv.weight"][[0, 2]], old["out.conv.conv.weight"], rtol=0, atol=0)
    assert not head["out.conv.conv.weight"][1].any()
    assert head["out.conv.conv.bias"][1].sigmoid() == pytest.approx(0.01, rel=0.02)


def test_training_continues_from_a_classifier_and_its_encoder_can_be_reused(
    tiny: Tiny, tiny_sorted: Sorted, tmp_path: Path
) -> None:
    options = {"task": "classification", "classes": tiny_sorted.classes}
    run = continue_training(tiny_sorted.store, tmp_path / "run", tiny_sorted.run, **options)
    volume = torch.rand(2, 1, 12, 12, 12)
    torch.testing.assert_close(load_classifier(run)[0](volume), load_classifier(tiny_sorted.run)[0](volume))
    segmentor = continue_training(tiny.store, tmp_path / "segmentor", tiny_sorted.run)
    theirs, _ = read_weights(tiny_sorted.run, "classifier")
    ours: dict[str, Tensor] = read_weights(segmentor, "segmentor")[0]
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if name.startswith("encoder."))


def test_the_settings_of_the_decoder_come_from_the_weights(good: Path) -> None:
    assert settings_from(read_weights(good, "segmentor")[1])["unetr.feature_size"] == 4


def test_the_transferred_weights_are_printed(tiny: Tiny, good: Path, tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    status, out, _ = run_voxmim("finetune", tiny.store, tmp_path / "run", "--init", good, "--steps", 0)
    assert status == 0
    assert "kept: bone, fat" in out


def test_a_pre_training_needs_at_least_one_step(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pretrain\.steps is 0, but must be at least 1"):
        api.pretrain(tiny.store, tmp_path / "run", tiny.recipe, {"pretrain.steps": 0})


# Folds


def test_each_patient_is_used_for_validation_in_one_fold(tiny: Tiny) -> None:
    store = Store(tiny.store)
    visits = [replace(case, group=f"patient {int(case.name[-1]) % 3}") for case in store.index.cases]
    store.index = replace(store.index, cases=visits)
    held_out = []
    for number in (1, 2, 3):
        fold = store.in_fold(f"{number}/3")
        val, train = ({case.group for case in fold.in_split(split)} for split in ("val", "train"))
        assert not val & train
        assert [case.name for case in fold.in_split("test")] == ["case_6", "case_7"]
        held_out += [case.name for case in fold.labelled("val")]
    assert sorted(held_out) == [f"case_{number}" for number in range(6)]
    assert fold.digest() == store.digest()


def test_a_fold_is_trained_resumed_and_evaluated(
    tiny: Tiny, tiny_runs: TinyRuns, tmp_path: Path, stop_before_step: Callable[[int], Any]
) -> None:
    options: dict[str, Any] = {"recipe": tiny.recipe, "settings": {"finetune.steps": 3}}
    with stop_before_step(2):
        api.finetune(tiny.store, tmp_path / "run", fold="2/3", **options)
    run = api.finetune(tiny.store, tmp_path / "run", resume=True)
    fold = Store(tiny.store).in_fold("2/3")
    about, _ = Run.open(run).about, json.loads((run / "run.json").read_text())
    assert (about["fold"], about["cases"]) == ("2/3", [case.name for case in fold.labelled("train")])
    held_out = [case.name for case in fold.labelled("val")]
    assert [name for name in Run.open(run).metrics()[-1] if name.startswith("case ")] == [f"case {n}" for n in held_out]
    assert [case["case"] for case in api.evaluate(run, tiny.store, "val")["cases"]] == held_out
    metadata = read_weights(run, "segmentor")[1]
    of_folder = [case.name for case in source_in_fold(tiny.source, metadata).cases if case.split == "val"]
    assert of_folder == held_out


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ("4/3", "--fold 4/3: give it as K/N, such as 1/5"),
        ("0/3", "give it as K/N"),
        ("1", "give it as K/N"),
        ("1/1", "give it as K/N"),
        ("1/9", "6 patients in train and val cannot be dealt into 9 folds"),
    ],
)
def test_an_invalid_fold_is_refused(tiny: Tiny, tmp_path: Path, fold: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        api.finetune(tiny.store, tmp_path / "run", recipe=tiny.recipe, fold=fold)
    assert not (tmp_path / "run").exists()

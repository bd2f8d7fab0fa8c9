"""Unannotated voxels and labels do not count in training or evaluation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Tiny, tiny_case
from voxmim import api
from voxmim.images.volume import Volume, open_image, write_volume
from voxmim.store.format import Store
from voxmim.tasks.segmentation.evaluate import result_tables
from voxmim.tasks.segmentation.loss import compare_known, deep_loss, make_criterion
from voxmim.tasks.segmentation.structures import Structures
from voxmim.tasks.segmentation.task import Segmentation

LABELS = Structures({1: "bone", 2: "fat"}, values=(0, 1, 2), ignore=9)
REGIONS = Structures({1: "core", 2: "rim"}, {"whole": (1, 2), "core": (1,)}, ignore=9)
Annotated = list[tuple[int, ...] | None]


def some_batch(values: list[int], outputs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    label = torch.tensor(values)[torch.randint(0, len(values), (2, 1, 4, 3, 2), generator=generator)]
    return 2 * torch.randn(2, outputs, 4, 3, 2, generator=generator), label


def loss_of(structures: Structures, logits: Tensor, label: Tensor, annotated: Annotated) -> Tensor:
    levels, label, known = compare_known(structures, [logits], label, annotated)
    return deep_loss(make_criterion(structures), levels, label, known=known)


def gradient(structures: Structures, logits: Tensor, label: Tensor, annotated: Annotated) -> Tensor:
    leaf = logits.clone().requires_grad_(True)
    loss_of(structures, leaf, label, annotated).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("structures", [LABELS, REGIONS])
def test_the_gradient_of_ignored_voxels_is_exactly_zero(structures: Structures) -> None:
    logits, label = some_batch([0, 1, 2, 9], structures.outputs)
    grad = gradient(structures, logits, label, [None, None])
    ignored = (label == 9).expand_as(grad)
    assert not grad[ignored].any()
    assert grad[~ignored].all()


@pytest.mark.parametrize("structures", [LABELS, REGIONS])
def test_a_case_without_annotated_labels_gives_no_gradient(structures: Structures) -> None:
    logits, label = some_batch([0, 1, 2], structures.outputs)
    grad = gradient(structures, logits, label, [(), None])
    assert not grad[0].any()
    assert grad[1].any()


def test_background_may_be_an_unannotated_label() -> None:
    """Moving probability between the two does not change the loss, except in a fully annotated case."""
    logits, label = some_batch([0, 1], 3)
    p = logits.softmax(1)
    moved = torch.stack([0.1 * (p[:, 0] + p[:, 2]), p[:, 1], 0.9 * (p[:, 0] + p[:, 2])], dim=1).log()
    torch.testing.assert_close(
        loss_of(LABELS, moved, label, [(1,), (1,)]), loss_of(LABELS, logits, label, [(1,), (1,)])
    )
    assert abs(loss_of(LABELS, moved, label, [None, (1,)]) - loss_of(LABELS, logits, label, [None, (1,)])) > 0.1


def test_a_label_annotated_in_no_case_does_not_count() -> None:
    logits, label = some_batch([0, 1, 2], 3)
    bone_only = torch.where(label == 2, 0, label)
    partly: Annotated = [(1,), (1,)]
    torch.testing.assert_close(loss_of(LABELS, logits, label, partly), loss_of(LABELS, logits, bone_only, partly))


def test_a_region_with_an_unannotated_label_gets_no_gradient() -> None:
    logits, label = some_batch([0, 1, 2], 2)
    grad = gradient(REGIONS, logits, label, [(1,), None])
    assert not grad[0, 0].any()  # the whole contains the rim
    assert grad[0, 1].all()
    assert grad[1].all()


def test_fully_annotated_cases_give_the_ordinary_loss() -> None:
    logits, label = some_batch([0, 1, 2], 3)
    ordinary = make_criterion(LABELS)(logits, label)
    torch.testing.assert_close(loss_of(LABELS, logits, label, [(1, 2), None]), ordinary)


# From the data set to the scores


@pytest.fixture(scope="module")
def partly(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cases in nnU-Net's layout: half of case_4 is ignored; case_5 and case_6 have only bone annotated."""
    folder = tmp_path_factory.mktemp("partly") / "source"
    for number in range(7):
        scan, label = tiny_case(number, (20, 18, 16))
        if number == 4:
            label[:10] = 3
        if number in (5, 6):
            label[label == 2] = 0
        for name, array in ((f"imagesTr/case_{number}_0000", scan), (f"labelsTr/case_{number}", label)):
            write_volume(folder / f"{name}.nii.gz", Volume(array[None], np.eye(4)))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "bone": 1, "fat": 2, "ignore": 3},
        "file_ending": ".nii.gz",
        "annotated": {"case_5": ["bone"], "case_6": ["bone"]},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    splits = [{"train": [f"case_{n}" for n in (0, 1, 2, 3, 5)], "val": ["case_4", "case_6"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


@pytest.fixture(scope="module")
def trained(partly: Path, tiny: Tiny) -> Path:
    store = api.prepare(partly, partly.parent / "store", workers=1, quiet=True).store
    return api.finetune(store, partly.parent / "run", recipe=tiny.recipe, settings={"finetune.steps": 2})


def test_a_store_has_the_annotated_labels_of_each_case(trained: Path) -> None:
    store = Store(trained.parent / "store")
    task = Segmentation.choose(store, None, 0, None)
    assert store.cases["case_5"].annotated == (1,)
    assert store.cases["case_0"].annotated is None
    assert (task.structures.labels, task.structures.ignore) == ({1: "bone", 2: "fat"}, 3)
    assert 3 not in store.samples("case_4")  # no crop is centred on ignored voxels
    assert "'ignore' are neither learned nor scored" in " ".join(task.notes)
    assert "case_5, case_6" in " ".join(task.notes)


def test_validation_counts_annotated_voxels_only(trained: Path) -> None:
    store = Store(trained.parent / "store")
    task = Segmentation.choose(store, None, 0, None)
    partly_annotated = store.label_map("case_6")
    assert set(task.counted(partly_annotated, partly_annotated, store.cases["case_6"])) == {"bone"}
    reference = store.label_map("case_4")
    everything_bone = np.ones_like(reference)
    known = reference != 3
    truth = known & (reference == 1)
    dice = task.counted(everything_bone, reference, store.cases["case_4"])
    assert dice["bone"] == pytest.approx(2 * truth.sum() / (known.sum() + truth.sum()))


def test_an_evaluation_leaves_unannotated_labels_out_and_says_so(trained: Path, partly: Path) -> None:
    result = api.evaluate(trained, trained.parent / "store", split="val")
    assert result["ignored"] == {"case_4": pytest.approx(0.5)}
    assert result["partly_annotated"] == {"case_6": ["bone"]}
    scores = {case["case"]: case["dice"] for case in result["cases"]}
    assert list(scores["case_6"]) == ["bone"]
    assert result["labels"]["fat"]["cases"] <= 1
    (table,) = result_tables(result)
    assert "50 % of the voxels of 1 case." in table.note
    assert "case_6 (bone)" in table.note
    assert result["not_learned"] == []


def test_ignored_voxels_do_not_count_in_the_scores(trained: Path, partly: Path, tmp_path: Path) -> None:
    written = api.predict(trained, [partly / "imagesTr" / "case_4_0000.nii.gz"], tmp_path)
    predicted = open_image(written[0]).read().array[0]
    reference = open_image(partly / "labelsTr" / "case_4.nii.gz").read().array[0]
    p, r = (predicted == 1) & (reference != 3), reference == 1
    result = api.evaluate(trained, trained.parent / "store", split="val")
    dice = next(case["dice"]["bone"] for case in result["cases"] if case["case"] == "case_4")
    assert dice == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))


def test_a_table_can_declare_annotated_labels(partly: Path, tmp_path: Path) -> None:
    rows = [["case", "image", "label", "annotated"]]
    for number, annotated in ((0, ""), (5, "1"), (6, "1;2")):
        paths = [partly / f"imagesTr/case_{number}_0000.nii.gz", partly / f"labelsTr/case_{number}.nii.gz"]
        rows.append([f"case_{number}", *map(str, paths), annotated])
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    cases = api.inspect(tmp_path / "list.csv", workers=1).source.cases
    assert {case.name: case.annotated for case in cases} == {"case_0": None, "case_5": (1,), "case_6": (1, 2)}

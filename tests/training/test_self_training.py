"""Self-training: its scans, pseudo-labels and schedule, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from conftest import Sorted, Tiny
from voxmim.errors import RecipeError
from voxmim.recipe import Recipe, load_recipe, make_recipe
from voxmim.settings import SelfTrainingSettings
from voxmim.store.format import Index, Store
from voxmim.tasks.segmentation.structures import Structures
from voxmim.tasks.segmentation.task import Segmentation
from voxmim.training.finetune import finetune
from voxmim.training.run import Run
from voxmim.training.self_training import SelfTraining, erase, unlabelled_cases

CROP = (16, 16, 16)


def recipe_of(tiny: Tiny, steps: int = 4, **settings: float) -> Recipe:
    recipe = load_recipe(tiny.recipe, {"crop": list(CROP)})
    training = replace(recipe.finetune, steps=steps, ema=0.9, validate_every=steps, checkpoint_every=2)
    return replace(recipe, finetune=training, self_training=SelfTrainingSettings(**{"weight": 1.0, **settings}))  # type: ignore[arg-type]


def self_training(tiny: Tiny, recipe: Recipe) -> SelfTraining:
    store = Store(tiny.store)
    fabric = Fabric(accelerator="cpu", devices=1)
    return SelfTraining(fabric, store, Segmentation.choose(store, "2", 0, None), recipe, {})


class Recorder(nn.Module):
    """Predicts the same output for every voxel, and records its inputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.inputs: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.inputs.append(image)
        return self.bias.reshape(1, -1, 1, 1, 1).expand(len(image), -1, *image.shape[2:])


def test_scans_whose_labels_are_not_used_are_used_for_self_training(tiny: Tiny) -> None:
    store = Store(tiny.store)
    task = Segmentation.choose(store, "2", 0, None)
    names = {case.name for case in unlabelled_cases(store, task)}
    assert names == {case.name for case in store.in_split("train", "unlabelled")} - {case.name for case in task.train}


def test_the_weight_increases_linearly_after_the_start(tiny: Tiny) -> None:
    training = self_training(tiny, recipe_of(tiny, steps=100, weight=2.0, start=0.1))
    assert [training.weight(step) for step in (0, 10, 15, 20, 99)] == pytest.approx([0, 0, 1, 2, 2])
    assert training.loss(nn.Identity(), nn.Identity(), 5) == 0


def test_network_and_teacher_get_the_same_crop_with_different_intensities(tiny: Tiny) -> None:
    network, teacher = Recorder(3), Recorder(3)
    recipe = recipe_of(tiny, start=0, noise=0.0, low_resolution=0.0, gamma=0.0, erase=0.0)
    self_training(tiny, recipe).loss(network, teacher, 3)
    (strong,), (weak,) = network.inputs, teacher.inputs
    for changed, crop in zip(strong.flatten(1), weak.flatten(1), strict=True):
        rank = torch.corrcoef(torch.stack([changed, crop]))[0, 1]
        assert rank > 0.99  # contrast and brightness keep the geometry
    assert not torch.equal(strong, weak)


def test_boxes_are_erased_from_some_crops_depending_on_their_seeds() -> None:
    image, seeds = torch.ones(40, 2, 12, 12, 18), torch.arange(40)
    erased = erase(image, seeds, 0.5)
    changed = (erased == 0).flatten(1).any(1)
    assert 10 < int(changed.sum()) < 30
    assert torch.equal(erased[:, 0], erased[:, 1])  # in all channels
    hidden = (erased[changed] == 0).float().mean((1, 2, 3, 4))
    assert hidden.min() >= (1 / 6) ** 3 - 1e-6
    assert hidden.max() <= 3 * (1 / 3) ** 3 + 1e-6
    assert torch.equal(erased[5:9], erase(image[5:9], seeds[5:9], 0.5))
    assert torch.equal(image, torch.ones_like(image))
    assert torch.equal(erase(image, seeds, 0.0), image)


def test_only_the_network_gets_a_gradient(tiny: Tiny) -> None:
    network, teacher = Recorder(3), Recorder(3)
    teacher.bias.data[1] = 9.0
    loss = self_training(tiny, recipe_of(tiny, start=0)).loss(network, teacher, 3)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert teacher.bias.grad is None
    assert network.bias.grad is not None
    assert network.bias.grad[1] < 0  # towards the label of the teacher


def test_an_uncertain_teacher_gives_no_loss(tiny: Tiny) -> None:
    network, teacher = Recorder(3), Recorder(3)
    loss = self_training(tiny, recipe_of(tiny, start=0, threshold=0.9)).loss(network, teacher, 3)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert network.bias.grad is not None
    assert not network.bias.grad.any()


def test_labels_are_certain_where_their_probability_is_high() -> None:
    structures = Structures({2: "bone", 5: "fat"}, values=(0, 2, 5))
    logits = torch.log(torch.tensor([[0.05, 0.05, 0.9], [0.4, 0.3, 0.3], [0.1, 0.89, 0.01]])).T[None, :, :, None, None]
    label, known = structures.confident(logits, 0.9)
    assert label.flatten().tolist() == [5, 0, 2]
    assert known.flatten().tolist() == [True, False, False]


def test_regions_are_certain_where_all_probabilities_are() -> None:
    structures = Structures({1: "core", 2: "oedema"}, {"core": (1,), "all": (1, 2)}, (0, 1, 2))
    logits = torch.logit(torch.tensor([[0.95, 0.97], [0.02, 0.95], [0.6, 0.95]])).T[None, :, :, None, None]
    label, known = structures.confident(logits, 0.9)
    assert label.flatten().tolist() == [1, 2, 1]
    assert known.flatten().tolist() == [True, True, False]


def test_a_run_with_self_training_resumes_exactly(
    tiny: Tiny, tmp_path: Path, stop_before_step: Callable[[int], AbstractContextManager[None]]
) -> None:
    recipe, store = recipe_of(tiny, start=0.1), Store(tiny.store)
    finetune(store, tmp_path / "one", recipe, labels="2")
    with stop_before_step(3):
        finetune(store, tmp_path / "two", recipe, labels="2")
    finetune(store, tmp_path / "two", recipe, resume=True)
    one, two = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(tmp_path / name).metrics()]
        for name in ("one", "two")
    )
    assert one == two


def test_self_training_is_refused_if_every_scan_is_labelled(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tiny.store)
    cases = [case for case in store.cases.values() if case.split != "unlabelled"]
    Index("labelled", store.preparation, store.labels, cases).write(tmp_path)
    opened = Store(tmp_path)
    task = Segmentation.choose(opened, None, 0, None)
    with pytest.raises(RecipeError, match="no scan without labels for self_training; leave it out"):
        SelfTraining(Fabric(accelerator="cpu", devices=1), opened, task, recipe_of(tiny), {})


def test_self_training_is_refused_for_other_tasks(tiny_sorted: Sorted, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_sorted)
    with pytest.raises(RecipeError, match="is for a segmentation, but the task is classification"):
        finetune(Store(tiny_sorted.store), tmp_path / "run", recipe, task="classification", table=tiny_sorted.classes)


def test_self_training_is_refused_without_averaged_weights() -> None:
    with pytest.raises(RecipeError, match="self_training needs averaged weights"):
        make_recipe({"self_training": {"weight": 1.0}})

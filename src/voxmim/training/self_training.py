"""Self-training: what a fine-tuning learns from unlabelled scans, labelled by its own averaged weights.

The teacher (arXiv 1703.01780) sees a crop as it is, the network a version of it with other intensities and resolution
and with boxes erased (arXiv 2001.07685, 1708.04552). Both see the same geometry, so that the teacher's labels fit.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from voxmim.errors import RecipeError
from voxmim.recipe import Recipe
from voxmim.settings import Augmentation
from voxmim.store import augment
from voxmim.store.crops import Batch, CropPlan, Crops
from voxmim.store.format import Case, Store
from voxmim.tasks.task import Task
from voxmim.training.one_process import Fabric
from voxmim.training.setup import augmenter, stream

RAMP = 0.1  # of the steps, over which the weight rises
_CHANGES = ("shift", "contrast", "gamma", "noise", "low_resolution")


def unlabelled_cases(store: Store, task: Task) -> list[Case]:
    """The train and unlabelled cases that the task does not learn from, if they have all channels."""
    used = {case.name for case in task.train}
    return [case for case in store.in_split("train", "unlabelled") if case.name not in used and not case.missing]


class SelfTraining:
    """The loss on unlabelled crops; `damaged` says what is wrong with each scan that cannot be read, by name.

    Raises:
        RecipeError: the task has no such loss, or there is no scan to learn from.
    """

    def __init__(self, fabric: Fabric, store: Store, task: Task, recipe: Recipe, damaged: dict[str, str]) -> None:
        if not task.labelled:
            raise RecipeError(f"self_training is for a segmentation, but the task is {task.name}; leave it out.")
        cases = unlabelled_cases(store, task)
        if not cases:
            raise RecipeError(f"{store.path}: it has no scan without labels for self_training; leave it out.")
        assert recipe.crop is not None
        self._fabric, self._task, self._spacing = fabric, task, store.preparation.spacing
        self._settings, self._training = recipe.self_training, recipe.finetune
        plan = CropPlan(recipe.crop, recipe.window, recipe.seed + 1, 1)
        steps = self._training.steps * self._training.accumulate
        batch = self._settings.batch * fabric.world_size
        self._stream = stream(fabric, Crops(store, cases, plan, damaged), batch, steps)
        self._batches: Iterator[Batch] | None = None
        geometry = replace(self._training.augmentation, shift=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)
        self._weakly = augmenter(fabric, store, replace(self._training, augmentation=geometry), task.sides)
        changes = {name: value for name, value in asdict(self._settings).items() if name in _CHANGES}
        self._strong = Augmentation(flip=0, rot90=0, **changes)

    def weight(self, step: int) -> float:
        """Of the loss at a step, counted from 0."""
        begun = step / self._training.steps - self._settings.start
        return self._settings.weight * min(1.0, max(0.0, begun / RAMP))

    def loss(self, network: nn.Module, teacher: nn.Module, step: int) -> Tensor | float:
        """The weighted loss of the next unlabelled crops at a step, counted from 0; 0 before it begins."""
        weight = self.weight(step)
        if weight == 0:
            return 0.0
        if self._batches is None:
            self._batches = self._stream(step * self._training.accumulate)
        weak = self._weakly(next(self._batches))
        strong = augment.apply(weak, augment.draw(self._strong, weak.seed // 7), self._spacing)
        with torch.no_grad(), self._fabric.autocast():
            labels = teacher.eval()(weak.image)
        foreground = self._training.foreground_weight_at(step)
        output = network(erase(strong.image, strong.seed, self._settings.erase))
        return weight * self._task.self_training_loss(output, labels, strong, self._settings.threshold, foreground)


def erase(image: Tensor, seeds: Tensor, probability: float) -> Tensor:
    """A copy of crops (B, C, X, Y, Z) in which, with a probability, one to three boxes are set to 0.

    Their sides are a sixth to a third of the crop's. Each crop's boxes follow from its seed (B,).
    """
    image = image.clone()
    for crop, seed in zip(image, seeds.tolist(), strict=True):
        rng = np.random.default_rng([seed, 9])
        for _ in range(rng.integers(1, 4) if rng.random() < probability else 0):
            sides = [int(rng.integers(size // 6, size // 3 + 1)) for size in crop.shape[1:]]
            starts = [int(rng.integers(size - side + 1)) for size, side in zip(crop.shape[1:], sides, strict=True)]
            crop[(slice(None), *(slice(at, at + side) for at, side in zip(starts, sides, strict=True)))] = 0
    return image

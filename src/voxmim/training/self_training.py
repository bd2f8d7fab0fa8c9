"""Self-training on unlabelled scans, with labels from the averaged weights of the network (the teacher).

The teacher (arXiv 1703.01780) gets a weakly augmented crop, the network the same crop with other intensities and
resolution and with boxes erased (arXiv 2001.07685, 1708.04552). The geometry is the same, so that the labels fit.
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

RAMP = 0.1  # fraction of the steps over which the weight rises
_STRONG = ("shift", "contrast", "gamma", "noise", "low_resolution")


def unlabelled_cases(store: Store, task: Task) -> list[Case]:
    """The train and unlabelled cases that the task does not use and that have all channels."""
    used = {case.name for case in task.train}
    return [case for case in store.in_split("train", "unlabelled") if case.name not in used and not case.missing]


class SelfTraining:
    """The loss on unlabelled crops; `errors` are those of scans that cannot be read, see `Damage`.

    Raises:
        RecipeError: the task is not a segmentation, or there is no unlabelled scan.
    """

    def __init__(self, fabric: Fabric, store: Store, task: Task, recipe: Recipe, errors: dict[str, str]) -> None:
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
        self._stream = stream(fabric, Crops(store, cases, plan, errors), batch, steps)
        self._batches: Iterator[Batch] | None = None
        geometry = replace(self._training.augmentation, shift=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)
        self._augment_weakly = augmenter(fabric, store, replace(self._training, augmentation=geometry), task.sides)
        changes = {name: value for name, value in asdict(self._settings).items() if name in _STRONG}
        self._strong = Augmentation(flip=0, rot90=0, **changes)

    def weight(self, step: int) -> float:
        """The weight of the loss at a step, counted from 0."""
        progress = step / self._training.steps - self._settings.start
        return self._settings.weight * min(1.0, max(0.0, progress / RAMP))

    def loss(self, network: nn.Module, teacher: nn.Module, step: int) -> Tensor | float:
        """The weighted loss of the next unlabelled crops at a step, counted from 0; 0 while the weight is 0."""
        weight = self.weight(step)
        if weight == 0:
            return 0.0
        if self._batches is None:
            self._batches = self._stream(step * self._training.accumulate)
        weak = self._augment_weakly(next(self._batches))
        strong = augment.apply(weak, augment.draw(self._strong, weak.seed // 7), self._spacing)
        with torch.no_grad(), self._fabric.autocast():
            labels = teacher.eval()(weak.image)
        foreground = self._training.foreground_weight_at(step)
        output = network(erase(strong.image, strong.seed, self._settings.erase))
        return weight * self._task.self_training_loss(output, labels, strong, self._settings.threshold, foreground)


def erase(image: Tensor, seeds: Tensor, probability: float) -> Tensor:
    """Set one to three boxes to 0 in a copy of crops (B, C, X, Y, Z), each crop with a probability.

    The sides of a box are a sixth to a third of the crop's. The boxes are drawn with each crop's seed (B,).
    """
    image = image.clone()
    for crop, seed in zip(image, seeds.tolist(), strict=True):
        rng = np.random.default_rng([seed, 9])
        for _ in range(rng.integers(1, 4) if rng.random() < probability else 0):
            sides = [int(rng.integers(size // 6, size // 3 + 1)) for size in crop.shape[1:]]
            starts = [int(rng.integers(size - side + 1)) for size, side in zip(crop.shape[1:], sides, strict=True)]
            crop[(slice(None), *(slice(at, at + side) for at, side in zip(starts, sides, strict=True)))] = 0
    return image

"""The stores and settings of a study, and the recipes of its arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from voxmim.errors import RecipeError, StoreError, nearest
from voxmim.pretext.build import PRETEXTS, fitting_pretexts
from voxmim.recipe import Recipe, fit_crop, load_recipe, with_crop
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Pretraining
from voxmim.tasks.cases import labelled_train_cases
from voxmim.training.length import with_steps


@dataclass(frozen=True)
class Request:
    """Stores and settings of a study."""

    stores: tuple[Path, ...]  # of prepared scans
    out: Path  # the folder of all studies
    recipe: str | Path  # packaged recipe or YAML file of all arms
    # changes to it, such as ``{"pretrain.steps": 500, "simclr:pretrain.batch": 32}``; a pretext and a colon restrict a
    # change to the pre-training by that pretext
    settings: Mapping[str, Any]
    labels: tuple[str, ...]  # numbers of labelled cases, as for `finetune`; ``all`` for all

    def __post_init__(self) -> None:
        if self.base.nodes * self.base.devices > 1:
            raise RecipeError("each trial of a study trains in one process; leave out nodes and devices.")
        for key in self.settings:
            pretext = key.partition(":")[0]
            if ":" in key and pretext not in PRETEXTS:
                raise RecipeError(f"--set {key}: '{pretext}' is no pretext{nearest(pretext, PRETEXTS) or '.'}")

    @cached_property
    def base(self) -> Recipe:
        """The recipe of all arms; steps that depend on the data are those of the most labels on the first store."""
        recipe = load_recipe(self.recipe, self._common)
        if not recipe.finetune.steps_from_data:
            return recipe
        store = Store(self.stores[0])
        numbers = ("all",) if "all" in self.labels else self.labels
        cases = max((labelled_train_cases(store, labels, recipe.seed) for labels in numbers), key=len)
        shapes = [case.shape for case in store.in_split("train", "unlabelled")]
        cut = with_crop(recipe, shapes, str(store.path), masked=False)
        return replace(recipe, finetune=with_steps(cut, cases, "--set finetune.steps=N").finetune)

    @property
    def _common(self) -> dict[str, Any]:
        """Changes to the recipe in all arms; validations score all cases, so that curves can be compared."""
        general = {key: value for key, value in self.settings.items() if ":" not in key}
        return {"finetune.validation_fraction": 1.0, **general}

    def recipe_of(self, pretext: str | None = None, settings: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of a fine-tuning, or of a pre-training by a pretext, with the `settings` of one arm.

        All pretexts are trained for about the same time: the number of steps follows from the cost of a step
        (`Pretext.relative_cost`); `Pretext.comparable` has further settings of the pretext.
        """
        changes = {**self._common, "finetune.steps": self.base.finetune.steps}
        if pretext is not None:
            changes["pretext"] = pretext
            if pretext != self.base.pretext:
                changes |= _as_long(self.base, pretext)
            prefix = f"{pretext}:"
            changes |= {
                key.removeprefix(prefix): value for key, value in self.settings.items() if key.startswith(prefix)
            }
        return load_recipe(self.recipe, {**changes, **(settings or {})})

    @property
    def pretexts(self) -> list[str]:
        """The pretexts that can pre-train the recipe's encoder, MAE last."""
        return fitting_pretexts(self.base.encoder)[::-1]

    def pretrained(self, pretext: str, settings: Mapping[str, Any] | None = None, /, **arm: Any) -> Arm:
        """An arm that is fine-tuned from a pre-training on the first store, or on ``pretrained_on``.

        `settings` are changes to the recipe of both trainings; `arm` are attributes of the `Arm`.
        """
        store = arm.pop("pretrained_on", self.stores[0])
        pretraining = Pretraining(store, self.recipe_of(pretext, settings))
        return self.scratch(settings, **{"name": PRETEXTS[pretext].title, "pretraining": pretraining, **arm})

    def scratch(self, settings: Mapping[str, Any] | None = None, /, **arm: Any) -> Arm:
        """An arm that is trained from scratch; see `pretrained` for the arguments."""
        arm = {"name": "from scratch", "store": self.stores[0], "labels": self.labels[0], **arm}
        arm["recipe"] = replace(self.recipe_of(None, settings) if settings else self.base, scratch_lr=None)
        return Arm(**arm)


def _as_long(base: Recipe, pretext: str) -> dict[str, Any]:
    """Settings with which a pre-training by another pretext takes as long as the recipe's own."""
    encoder = base.encoder_entry.encoder
    settings = PRETEXTS[pretext].comparable(base.pretrain)
    costs = {name: PRETEXTS[name].relative_cost(encoder) for name in (base.pretext, pretext)}  # of a step
    costs[pretext] *= settings.get("pretrain.batch", base.pretrain.batch) / base.pretrain.batch
    for key in ("steps", "validate_every", "checkpoint_every"):
        steps = getattr(base.pretrain, key) * costs[base.pretext] / costs[pretext]
        settings[f"pretrain.{key}"] = max(1, round(steps))
    return settings


def ready(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Arm]:
    """Check the stores and settings of the arms, and set their crops.

    Without a crop in the recipe, one is fitted to the scans of each store, the same for all arms on that store.

    Raises:
        StoreError: a store lacks labels, or cases to validate or to test on.
        RecipeError: a crop does not fit an encoder or its masks.
    """
    stores = {path: Store(path) for arm in arms for path, _, _ in arm.trainings}
    shapes = {path: [case.shape for case in store.in_split("train", "unlabelled")] for path, store in stores.items()}
    cells: dict[Path, Triple] = {}
    for arm in arms:
        for split in ("train", "val", "test"):
            if not stores[arm.store].labelled(split):
                raise StoreError(
                    f"{arm.store}: there is no labelled case in the split '{split}', which a study needs; add one."
                )
        for seed in seeds:
            labelled_train_cases(stores[arm.store], arm.labels, seed)
        for path, recipe, masked in arm.trainings:
            unit = recipe.crop_unit if masked else recipe.encoder_settings.patch
            x, y, z = map(math.lcm, cells.get(path, (1, 1, 1)), unit)
            cells[path] = (x, y, z)

    def cut(path: Path, recipe: Recipe, masked: bool) -> Recipe:
        crop = recipe.crop or fit_crop(shapes[path], cells[path], recipe.crop_voxels)
        return with_crop(replace(recipe, crop=crop), shapes[path], str(path), masked)

    return [arm.changed(cut) for arm in arms]

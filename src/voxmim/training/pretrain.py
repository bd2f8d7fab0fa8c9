"""Pre-training: from a store of scans to an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from voxmim import augment
from voxmim.crops import Batch, CropPlan, Crops, batches, middle_start, read_crop
from voxmim.errors import RecipeError, RunError, StoreError
from voxmim.networks.patches import grid_of
from voxmim.networks.weights import build_vit, save_weights
from voxmim.pretext.mae import MAE
from voxmim.pretext.masking import random_mask
from voxmim.recipe import Recipe, fit_crop
from voxmim.store import Case, Store
from voxmim.training.loop import Job, make_fabric, train
from voxmim.training.run import Run, refuse_occupied

MOST_VALIDATION = 32  # cases a validation looks at: enough for a steady figure, few enough not to wait for


def pretrain(store: Store, out: Path, recipe: Recipe, resume: bool = False) -> Run:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    Args:
        store: of prepared scans.
        out: the run folder, new or, with `resume`, one that was stopped.
        recipe: the settings; with `resume`, the run's own take their place.
        resume: go on exactly where the run stopped.

    Raises:
        RunError: `out` is occupied, or nothing to resume.
        StoreError: no scan to train on.
        TrainingError: the loss is no longer finite.
    """
    recipe, run = open_or_plan(out, "pretrain", recipe, store, resume)
    assert recipe.crop is not None
    train_cases, val_cases = pretraining_cases(store, recipe.seed)
    fabric = make_fabric(recipe)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    encoder = build_vit(recipe.vit, len(store.preparation.channels), recipe.crop)
    network = MAE(encoder, recipe.mae)
    if run is None:
        if fabric.is_global_zero:
            Run.new(out, "pretrain", recipe, {"store": str(store.path.resolve()), "cases": len(train_cases)})
        fabric.barrier()
        run = Run.open(out, "pretrain")

    training = recipe.pretrain
    plan = CropPlan(recipe.crop, recipe.window, recipe.seed, training.crops_per_scan)
    fixed = FixedCrops(store, val_cases, plan, recipe)
    metadata = weights_metadata(store, recipe) | {"pretext": "mae", "mae": asdict(recipe.mae)}

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = to_device(fabric, batch)
        batch = augment.apply(batch, augment.draw(training.augmentation, batch.seed), store.preparation.spacing)
        mask = step_masks(recipe, training.batch, step)
        share = len(batch.image)
        mine = mask[fabric.global_rank * share : (fabric.global_rank + 1) * share]
        return wrapped(batch.image, mine).loss

    def save(step: int) -> None:
        save_weights(run.path / "encoder.safetensors", encoder, {**metadata, "kind": "encoder", "step": step})
        save_weights(run.path / "pretext.safetensors", network, {**metadata, "kind": "pretext", "step": step})

    train(
        fabric,
        run,
        Job(
            title="pre-training",
            network=network,
            training=training,
            betas=(0.9, 0.95),  # as masked autoencoders are trained (arXiv 2111.06377)
            batches=lambda first: batches(
                Crops(store, train_cases, plan),
                training.batch,
                first,
                training.steps,
                fabric.global_rank,
                fabric.world_size,
            ),
            loss=loss,
            validate=lambda _: {"val_loss": fixed.loss(fabric, network)} if val_cases else {},
            columns=["val_loss"],
            better=None,
            save=save,
        ),
        recipe.seed,
    )
    return run


def pretraining_cases(store: Store, seed: int) -> tuple[list[Case], list[Case]]:
    """The cases to train on (train and unlabelled, never val or test) and those to validate on.

    Without a validation split, a twentieth of the cases is kept aside for it, if there are at least four.
    """
    cases = store.in_split("train", "unlabelled")
    if not cases:
        raise StoreError(f"{store.path}: it has no train or unlabelled case to pre-train on; check its splits.")
    held = store.in_split("val")
    if not held and len(cases) >= 4:
        chosen = set(np.random.default_rng([seed, 7]).permutation(len(cases))[: max(1, len(cases) // 20)].tolist())
        held = [case for i, case in enumerate(cases) if i in chosen]
        cases = [case for i, case in enumerate(cases) if i not in chosen]
    return cases, held[:MOST_VALIDATION]


def step_masks(recipe: Recipe, batch: int, step: int) -> Tensor:
    """(batch, N) the masks of a whole step, over all processes; they follow from the seed and the step."""
    assert recipe.crop is not None
    grid = grid_of(recipe.crop, recipe.vit.patch)
    generator = torch.Generator().manual_seed(recipe.seed * 7_368_787 + step)
    return random_mask(batch, grid[0] * grid[1] * grid[2], recipe.mae.ratio, generator)


class FixedCrops:
    """The validation of a pre-training: the middle crop of each case, always under the same mask."""

    def __init__(self, store: Store, cases: Sequence[Case], plan: CropPlan, recipe: Recipe) -> None:
        self._store, self._cases, self._plan, self._recipe = store, cases, plan, recipe

    def loss(self, fabric: Fabric, network: MAE) -> float:
        """The mean loss over the cases."""
        masks = step_masks(self._recipe, len(self._cases), -1)
        total = 0.0
        with torch.no_grad(), fabric.autocast():
            for case, mask in zip(self._cases, masks, strict=True):
                image, _ = read_crop(self._store, case, middle_start(case.shape, self._plan.size), self._plan)
                total += float(network(fabric.to_device(image[None]), mask[None]).loss)
        return total / len(self._cases)


def open_or_plan(out: Path, kind: str, recipe: Recipe, store: Store, resume: bool) -> tuple[Recipe, Run | None]:
    """The recipe to follow, and the run to resume, or None where a new one is to be made."""
    if resume:
        run = Run.open(out, kind)
        if run.about["store"] != str(store.path.resolve()):
            raise RunError(
                f"{out}: this run was trained on {run.about['store']}, not on {store.path}; name that store."
            )
        return run.recipe(), run
    refuse_occupied(out)
    if recipe.crop is None:
        shapes = [case.shape for case in store.in_split("train", "unlabelled")] or [
            c.shape for c in store.cases.values()
        ]
        recipe = replace(recipe, crop=fit_crop(shapes, recipe.vit.patch, recipe.crop_voxels))
    if recipe.crop == recipe.vit.patch:
        raise RecipeError(
            f"{store.path}: a crop of {recipe.crop} voxels is a single patch, and nothing could be hidden in it; "
            "take a smaller vit.patch or a larger crop."
        )
    return recipe, None


def weights_metadata(store: Store, recipe: Recipe) -> dict[str, Any]:
    """What every weights file tells of how it was made and what a scan must be like for it."""
    return {
        "preparation": asdict(store.preparation),
        "window": list(recipe.window),
        "crop": list(recipe.crop or ()),
        "vit": asdict(recipe.vit),
        "data": {"name": store.name, "digest": store.digest(), "seed": store.seed},
        "seed": recipe.seed,
    }


def to_device(fabric: Fabric, batch: Batch) -> Batch:
    """The batch with its tensors on this process's device."""
    return batch._replace(image=fabric.to_device(batch.image), label=fabric.to_device(batch.label))

"""Pre-training of an encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxmim.errors import StoreError
from voxmim.networks.build import ANY, build_encoder
from voxmim.pretext.build import build_pretext
from voxmim.pretext.pretext import describe_pretext
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops
from voxmim.store.format import Case, Store
from voxmim.text import counted
from voxmim.training.damage import Damage
from voxmim.training.loop import Job, Watcher, train
from voxmim.training.nonfinite import image_files
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.training.setup import augmenter, begin, new_run, store_entries, stream, weights_metadata
from voxmim.training.validate_pretext import Validation
from voxmim.weights.files import save_weights

MAX_VALIDATION = 32  # cases


def pretrain(
    store: Store,
    out: Path,
    recipe: Recipe,
    resume: bool = False,
    init: Path | None = None,
    watcher: Watcher = lambda *_: None,
) -> Run:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    See `voxmim.pretrain` for the arguments; the first process calls `watcher` after each row of metrics.csv.

    Raises:
        RunError: `out` is occupied, or there is nothing to resume.
        StoreError: there is no scan to train on.
        RecipeError: the crop does not fit the encoder or the masks.
        WeightsError: the weights do not fit the encoder.
        TrainingError: the loss is not finite, or too many scans cannot be read.
    """
    recipe, run, start = begin(store, out, "pretrain", recipe, init, resume)
    assert recipe.crop is not None
    train_cases, val_cases = pretraining_cases(store, recipe.seed, recipe.scans)
    fabric = make_fabric(recipe)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    inputs = (ANY,) if recipe.channels == "one" else store.preparation.channels
    encoder = build_encoder(recipe.encoder_settings, len(inputs), recipe.crop)
    transfer = None if start is None else start.load_into(encoder, store, recipe, inputs)
    network = build_pretext(recipe.pretext, recipe.pretext_settings, recipe.mask, encoder)
    if run is None:
        about: dict[str, Any] = {**store_entries(store), "cases": len(train_cases)}
        run = new_run(fabric, out, "pretrain", recipe, about, start, transfer)

    training = recipe.pretrain
    metadata = (
        weights_metadata(store, recipe, run)
        | describe_pretext(recipe.pretext, recipe.pretext_settings, recipe.mask)
        | {"inputs": list(inputs)}
    )
    augmented = augmenter(fabric, store, training)
    plan = CropPlan(recipe.crop, recipe.window, recipe.seed, training.crops_per_scan, channels=recipe.channels)
    if network.views == 2:
        plan = replace(plan, views=network.overlap)
    damage = Damage(len(train_cases) + len(val_cases), recipe.max_damaged)
    validation = Validation(fabric, network, store, val_cases, plan, recipe, augmented, damage)

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = augmented(batch)
        return wrapped(*network.inputs(batch.image, batch.seed, batch.present)).loss

    def save(step: int) -> None:
        save_weights(run.path / "encoder.safetensors", encoder, {**metadata, "kind": "encoder", "step": step})
        save_weights(run.path / "pretext.safetensors", network, {**metadata, "kind": "pretext", "step": step})

    crops = Crops(store, train_cases, plan, damage.errors)
    job = Job(
        title="pre-training",
        network=network,
        training=training,
        betas=network.betas,
        batches=stream(fabric, crops, network.views * training.batch, training.steps),
        loss=loss,
        validate=lambda _: validation.run() if val_cases else {},
        columns=list(network.columns),
        save=save,
        warning=lambda row: network.warning(recipe.pretext_settings, row, training.steps),
        files=lambda names: image_files(store, names),
        compile=recipe.compile,
        damage=damage,
        watcher=watcher,
    )
    train(fabric, run, job, recipe.seed)
    return run


def pretraining_cases(store: Store, seed: int, scans: int | None = None) -> tuple[list[Case], list[Case]]:
    """The cases to train on (train and unlabelled, never val or test) and the cases to validate on.

    Without a validation split, a twentieth of the cases is held out if there are at least four. `scans` limits the
    training cases to a random sample; a smaller sample is a part of a larger one.
    """
    cases = store.in_split("train", "unlabelled")
    if not cases:
        raise StoreError(f"{store.path}: it has no train or unlabelled case to pre-train on; check its splits.")
    val = store.in_split("val")
    if not val and len(cases) >= 4:
        held_out = set(np.random.default_rng([seed, 7]).permutation(len(cases))[: max(1, len(cases) // 20)].tolist())
        val = [case for i, case in enumerate(cases) if i in held_out]
        cases = [case for i, case in enumerate(cases) if i not in held_out]
    if scans is not None:
        if scans > len(cases):
            there = counted(len(cases), "scan")
            raise StoreError(f"{store.path}: it has {there} to pre-train on; lower scans, which is {scans}.")
        sample = set(np.random.default_rng([seed, 8]).permutation(len(cases))[:scans].tolist())
        cases = [case for i, case in enumerate(cases) if i in sample]
    return cases, val[:MAX_VALIDATION]

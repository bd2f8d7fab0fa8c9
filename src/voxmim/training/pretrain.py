"""Pre-training: from a store of scans to an encoder."""

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
from voxmim.training.damage import Damage
from voxmim.training.loop import Job, Watcher, train
from voxmim.training.nonfinite import image_files
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.training.setup import augmenter, begin, made_of, new_run, stream, weights_metadata
from voxmim.training.validate_pretext import Validation
from voxmim.weights.files import save_weights

MAX_VALIDATION = 32  # cases of a validation: enough for a steady figure, few enough not to wait for


def pretrain(
    store: Store,
    out: Path,
    recipe: Recipe,
    resume: bool = False,
    init: Path | None = None,
    watcher: Watcher = lambda *_: None,
) -> Run:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    Arguments are as of `voxmim.pretrain`; the first process calls `watcher` after each row of metrics.csv.

    Raises:
        RunError: `out` is occupied, or nothing to resume.
        StoreError: no scan to train on.
        RecipeError: the crop does not fit the encoder or the masks.
        WeightsError: the weights do not fit the encoder.
        TrainingError: the loss is no longer finite, or too many scans cannot be read any more.
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
        about: dict[str, Any] = {**made_of(store), "cases": len(train_cases)}
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

    train(
        fabric,
        run,
        Job(
            title="pre-training",
            network=network,
            training=training,
            betas=network.betas,
            batches=stream(
                fabric, Crops(store, train_cases, plan, damage.found), network.views * training.batch, training.steps
            ),
            loss=loss,
            validate=lambda _: validation.run() if val_cases else {},
            columns=list(network.columns),
            save=save,
            watch=lambda row: network.complaint(recipe.pretext_settings, row, training.steps),
            files=lambda names: image_files(store, names),
            compile=recipe.compile,
            damage=damage,
            watcher=watcher,
        ),
        recipe.seed,
    )
    return run


def pretraining_cases(store: Store, seed: int, scans: int | None = None) -> tuple[list[Case], list[Case]]:
    """The cases to train on (train and unlabelled, never val or test) and those to validate on.

    Without a validation split, a twentieth of the cases is held out, if there are at least four. Of the rest, `scans`
    are drawn; those of a smaller number are among those of a larger one.
    """
    cases = store.in_split("train", "unlabelled")
    if not cases:
        raise StoreError(f"{store.path}: it has no train or unlabelled case to pre-train on; check its splits.")
    held = store.in_split("val")
    if not held and len(cases) >= 4:
        chosen = set(np.random.default_rng([seed, 7]).permutation(len(cases))[: max(1, len(cases) // 20)].tolist())
        held = [case for i, case in enumerate(cases) if i in chosen]
        cases = [case for i, case in enumerate(cases) if i not in chosen]
    if scans is not None:
        if scans > len(cases):
            raise StoreError(f"{store.path}: it has {len(cases)} scans to pre-train on; lower scans, which is {scans}.")
        drawn = set(np.random.default_rng([seed, 8]).permutation(len(cases))[:scans].tolist())
        cases = [case for i, case in enumerate(cases) if i in drawn]
    return cases, held[:MAX_VALIDATION]

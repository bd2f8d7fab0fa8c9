"""Fine-tuning: from a store with labels, and an encoder or none, to a segmentor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from voxmim.errors import StoreError
from voxmim.images.intensity import window
from voxmim.networks.build import build_encoder, build_segmentor
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops
from voxmim.store.format import Case, Store
from voxmim.store.sides import find_sides
from voxmim.tasks.segmentation.inference import predict_probabilities
from voxmim.tasks.segmentation.loss import make_criterion
from voxmim.tasks.segmentation.prior import PRIOR, PositionPrior
from voxmim.tasks.segmentation.scores import score_case
from voxmim.tasks.segmentation.structures import Structures
from voxmim.training.damage import Damage
from voxmim.training.loop import Job, make_fabric, train
from voxmim.training.nonfinite import image_files
from voxmim.training.run import Run
from voxmim.training.setup import Beginning, account_of, augmenter, begin, made_of, new_run, stream, weights_metadata
from voxmim.weights.files import save_weights
from voxmim.weights.load import LoadReport
from voxmim.weights.start import carry_decoder

MOST_VALIDATION = 16  # whole scans a validation labels; the curve's points must not cost more than the training


def finetune(
    store: Store,
    out: Path,
    recipe: Recipe,
    init: Path | None = None,
    labels: str | None = None,
    resume: bool = False,
    act: Callable[[Fabric, Run, Job, int], None] = train,
) -> tuple[Run, LoadReport | None]:
    """Train a segmentor on the labelled train cases, from an encoder's weights or from scratch.

    Args:
        store: of prepared scans with labels.
        out: the run folder, new or, with `resume`, one that was stopped.
        recipe: the settings; the crop, where there is none, comes from `init` if it is given, and all of them come
            from the run with `resume`.
        init: a pre-training's run folder or weights file.
        labels: how many labelled cases to use: a share such as ``0.1``, or a number such as ``12``; None takes all.
        resume: go on exactly where the run stopped.
        act: what is done with the job.

    Returns:
        the run, and the account of the weights that moved (None from scratch or from a checkpoint).

    Raises:
        RunError: `out` is occupied, or nothing to resume.
        StoreError: no labelled case to train on.
        WeightsError: the weights do not fit the store or the network.
        TrainingError: the loss is no longer finite, or too many scans cannot be read any more.
    """
    recipe, run, start = begin_finetune(store, out, recipe, init, resume)
    assert recipe.crop is not None
    train_cases = same_cases(run, store) if run else labelled_cases(store, labels, recipe.seed)
    val_cases = store.labelled("val")[:MOST_VALIDATION]
    structures = Structures.of_store(store)

    fabric = make_fabric(recipe)
    fabric.launch()
    if fabric.is_global_zero:
        _tell_left_out(store)
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder_settings, len(store.preparation.channels), recipe.crop)
    network = build_segmentor(encoder, recipe.unetr, structures.outputs)
    transfer = None if start is None else start.load_into(encoder, store, recipe, store.preparation.channels)
    carried = carry_decoder(network, start.file) if start is not None and recipe.carry_decoder else None
    if run is None:
        about: dict[str, Any] = {**made_of(store), "cases": [case.name for case in train_cases]}
        run = new_run(fabric, out, "finetune", recipe, about, start, transfer, carried)
    if fabric.is_global_zero and not (run.path / PRIOR).is_file():
        found = Damage().readable(train_cases, lambda case: store.label_map(case.name))
        maps = (label_map for _, _, label_map in found)
        PositionPrior.fit(maps, store.labels).save(run.path / PRIOR)

    training = recipe.finetune
    plan = CropPlan(
        recipe.crop, recipe.window, recipe.seed, training.crops_per_scan, labelled=True, foreground=training.foreground
    )
    damage = account_of(recipe, train_cases, val_cases)
    criterion = make_criterion(structures)
    metadata = (
        weights_metadata(store, recipe, run)
        | structures.metadata()
        | {
            "kind": "segmentor",
            "unetr": asdict(recipe.unetr),
            "overlap": recipe.overlap,
            "precision": recipe.precision,
        }
    )

    augmented = augmenter(fabric, store, training, find_sides(store.labels, store.regions))

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = augmented(batch)
        return criterion(wrapped(batch.image).float(), batch.label)

    act(
        fabric,
        run,
        Job(
            title="fine-tuning",
            network=network,
            training=training,
            betas=(0.9, 0.999),
            batches=stream(fabric, Crops(store, train_cases, plan, damage.found), training.batch, training.steps),
            loss=loss,
            validate=lambda _: validation_dice(fabric, network, store, val_cases, recipe, damage) if val_cases else {},
            columns=[
                "val_dice",
                *(f"val_dice {name}" for name in structures.parts),
                *(case_column(case.name) for case in val_cases),
            ],
            better="val_dice" if val_cases else None,
            save=lambda step: save_weights(run.path / "segmentor.safetensors", network, metadata | {"step": step}),
            files=lambda names: image_files(store, names),
            compile=recipe.compile,
            damage=damage,
        ),
        recipe.seed,
    )
    return run, transfer


def begin_finetune(store: Store, out: Path, recipe: Recipe, init: Path | None, resume: bool) -> Beginning:
    """What every fine-tuning settles first, whatever it learns.

    From scratch it may have a rate of its own, and all layers learn at that rate: there is nothing in them to keep.
    """
    found = begin(store, out, "finetune", recipe, init, resume)
    if resume or init is not None:
        return found
    training = found.recipe.finetune
    training = replace(training, layer_decay=1.0, lr=training.lr if recipe.scratch_lr is None else recipe.scratch_lr)
    return found._replace(recipe=replace(found.recipe, finetune=training))


def same_cases(run: Run, store: Store) -> list[Case]:
    """The cases that a resumed run was trained on."""
    gone = [name for name in run.about["cases"] if name not in store.cases]
    if gone:
        raise StoreError(f"{store.path}: {gone[0]}, which {run.path} was trained on, is gone; prepare it again.")
    return [store.cases[name] for name in run.about["cases"]]


def labelled_cases(store: Store, labels: str | None, seed: int) -> list[Case]:
    """The labelled train cases that a run may learn from, drawn by seed; fewer are always a part of more.

    A case that lacks a channel is none of them.

    Raises:
        StoreError: there are none, or `labels` is neither a share nor a number that fits.
    """
    cases = store.labelled("train")
    if not cases and any(case.label for case in store.in_split("train")):
        raise StoreError(f"{store.path}: each of its labelled train cases lacks a channel; add files, or leave it out.")
    if not cases or not store.labels:
        raise StoreError(f"{store.path}: it has no labelled train case to fine-tune on; prepare a source with labels.")
    if labels is None:
        return cases
    count = count_of(labels, len(cases), store)
    order = np.random.default_rng([seed, 11]).permutation(len(cases))
    return [cases[i] for i in sorted(order[:count])]


def count_of(labels: str, cases: int, store: Store, least: int = 1) -> int:
    """How many of the labelled train cases a share or a number asks for; a share gives at least `least`.

    Raises:
        StoreError: it is neither a share nor a number that fits.
    """
    try:
        count = max(least, round(float(labels) * cases)) if "." in labels else int(labels)
        sensible = 0 < float(labels) <= 1 if "." in labels else least <= count <= cases
    except ValueError:
        count, sensible = 0, False
    if not sensible:
        raise StoreError(
            f"--labels {labels}: give a share such as 0.1 or a number from {least} to {cases}, "
            f"the labelled train cases of {store.path}."
        )
    return count


def _tell_left_out(store: Store) -> None:
    """Say which labelled cases are not used."""
    names = [case.name for case in store.in_split("train", "val") if case.label and case.missing]
    if names:
        text = f"left out, since they lack a channel: {', '.join(names)}"
        Console(stderr=True).print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def validation_dice(
    fabric: Fabric,
    network: nn.Module,
    store: Store,
    cases: Sequence[Case],
    recipe: Recipe,
    damage: Damage | None = None,
) -> dict[str, float]:
    """Dice of whole validation scans in the store's spacing: mean over cases, per label or region, and per case.

    Windows lie side by side, overlapping no more than they must: an evaluation's, which do overlap, would take a third
    of a short training's time and more, to choose the same steps.

    Labels that neither the reference nor the prediction holds are not counted, nor are cases that cannot be read.
    """
    assert recipe.crop is not None
    per_case: dict[str, float] = {}
    structures = Structures.of_store(store)
    per_part: dict[str, list[float]] = {name: [] for name in structures.parts}

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        return store.image(case.name), store.label_map(case.name)

    for _, case, (stored, reference) in (damage or Damage()).readable(cases, read):
        image = torch.from_numpy(window(stored, store.preparation.intensity, recipe.window))
        probabilities = predict_probabilities(
            network, fabric.to_device(image), recipe.crop, 0.0, recipe.precision, structures.activate
        )
        predicted = structures.label_shares(probabilities.numpy()).argmax(0)
        counted = _counted(predicted, reference, structures)
        for name, score in counted.items():
            per_part[name].append(score)
        if counted:
            per_case[case_column(case.name)] = float(np.mean(list(counted.values())))
    figures = {"val_dice": float(np.mean(list(per_case.values()))) if per_case else 0.0} | per_case
    figures |= {f"val_dice {name}": float(np.mean(scores)) for name, scores in per_part.items() if scores}
    return figures


def prior_dice(run: Run, store: Store) -> list[float]:
    """Mean Dice of a run's position-only prior on each validation case that counts, as `validation_dice` has it."""
    prior, structures = PositionPrior.load(run.path / PRIOR), Structures.of_store(store)
    cases = store.labelled("val")[:MOST_VALIDATION]
    found = [_counted(prior.predict(case.shape), store.label_map(case.name), structures) for case in cases]
    return [float(np.mean(list(scores.values()))) for scores in found if scores]


def _counted(predicted: np.ndarray, reference: np.ndarray, structures: Structures) -> dict[str, float]:
    """Dice of each label or region that one of two label maps (X, Y, Z) holds."""
    found = score_case(predicted.astype(np.uint8), reference, structures.parts, (1, 1, 1), metrics=["dice"])
    return {name: score for name, scores in found.items() if (score := scores["dice"]) is not None}


def case_column(name: str) -> str:
    """The column of a validation case's mean Dice in metrics.csv."""
    return f"case {name}"

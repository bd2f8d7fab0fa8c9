"""Fine-tuning: from a store with labels, and an encoder or none, to a segmentor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from monai.losses import DiceCELoss
from torch import Tensor, nn

from voxmim import augment
from voxmim.crops import Batch, CropPlan, Crops, batches
from voxmim.errors import StoreError
from voxmim.networks.build import build_encoder, build_segmentor
from voxmim.networks.weights import Transfer, find_weights, load_into, read_weights, save_weights
from voxmim.scans.intensity import window
from voxmim.segmentation.inference import predict_probabilities
from voxmim.segmentation.metrics import dice
from voxmim.segmentation.prior import PRIOR, PositionPrior
from voxmim.settings import Recipe
from voxmim.store import Case, Store
from voxmim.training.loop import Job, make_fabric, train
from voxmim.training.pretrain import open_or_plan, to_device, weights_metadata
from voxmim.training.run import CHECKPOINT, Run
from voxmim.training.transfer import carry_decoder, fit_to_weights

MOST_VALIDATION = 16  # whole scans a validation labels; the curve's points must not cost more than the training


def finetune(
    store: Store,
    out: Path,
    recipe: Recipe,
    init: Path | None = None,
    labels: str | None = None,
    resume: bool = False,
) -> tuple[Run, Transfer | None]:
    """Train a segmentor on the labelled train cases, from an encoder's weights or from scratch.

    Args:
        store: of prepared scans with labels.
        out: the run folder, new or, with `resume`, one that was stopped.
        recipe: the settings; the encoder's own, and the crop where there is none, come from `init` where it is given,
            and all of them from the run with `resume`.
        init: a pre-training's run folder or weights file.
        labels: how many labelled cases to use: a share such as ``0.1``, or a number such as ``12``; None takes all.
        resume: go on exactly where the run stopped.

    Returns:
        the run, and the account of the weights that moved (None from scratch or from a checkpoint).

    Raises:
        RunError: `out` is occupied, or nothing to resume.
        StoreError: no labelled case to train on.
        WeightsError: the weights do not fit the store or the network.
        TrainingError: the loss is no longer finite.
    """
    tensors: dict[str, Tensor] = {}
    if init is not None and not resume:
        init = find_weights(init, "encoder")
        tensors, metadata = read_weights(init)
        recipe = fit_to_weights(recipe, store, metadata, init)
    recipe, run = open_or_plan(out, "finetune", recipe, store, resume)
    if init is None and recipe.scratch_lr is not None and run is None:
        recipe = replace(recipe, finetune=replace(recipe.finetune, lr=recipe.scratch_lr))
    if run is not None and run.about["init"] is not None and not (run.path / CHECKPOINT).is_file():
        init = Path(run.about["init"])  # stopped before its first checkpoint, it starts from these weights again
        tensors, _ = read_weights(init)
    assert recipe.crop is not None
    train_cases = _same_cases(run, store) if run else labelled_cases(store, labels, recipe.seed)
    val_cases = [case for case in store.in_split("val") if case.label][:MOST_VALIDATION]

    fabric = make_fabric(recipe)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder_settings, len(store.preparation.channels), recipe.crop)
    network = build_segmentor(encoder, recipe.unetr, classes=max(store.labels) + 1)
    transfer = load_into(encoder, tensors, str(init)) if tensors else None
    moved = None if transfer is None else str(transfer)
    if init is not None and tensors and recipe.carry_decoder:
        moved = f"{moved}; and all {len(carry_decoder(network, init).loaded)} of the decoder"
    if run is None:
        if fabric.is_global_zero:
            about: dict[str, Any] = {
                "store": str(store.path.resolve()),
                "init": None if init is None else str(init.resolve()),
                "transfer": moved,
                "cases": [case.name for case in train_cases],
            }
            Run.new(out, "finetune", recipe, about)
        fabric.barrier()
        run = Run.open(out, "finetune")
    if fabric.is_global_zero and not (run.path / PRIOR).is_file():
        maps = (store.label_map(case.name) for case in train_cases)
        PositionPrior.fit(maps, store.labels).save(run.path / PRIOR)

    training = recipe.finetune
    plan = CropPlan(
        recipe.crop, recipe.window, recipe.seed, training.crops_per_scan, labelled=True, foreground=training.foreground
    )
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    metadata = weights_metadata(store, recipe) | {
        "kind": "segmentor",
        "unetr": asdict(recipe.unetr),
        "labels": {str(value): name for value, name in store.labels.items()},
        "overlap": recipe.overlap,
        "precision": recipe.precision,
    }

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = to_device(fabric, batch)
        batch = augment.apply(batch, augment.draw(training.augmentation, batch.seed), store.preparation.spacing)
        return criterion(wrapped(batch.image).float(), batch.label)

    train(
        fabric,
        run,
        Job(
            title="fine-tuning",
            network=network,
            training=training,
            betas=(0.9, 0.999),
            batches=lambda first: batches(
                Crops(store, train_cases, plan),
                training.batch,
                first,
                training.steps,
                fabric.global_rank,
                fabric.world_size,
            ),
            loss=loss,
            validate=lambda _: validation_dice(fabric, network, store, val_cases, recipe) if val_cases else {},
            columns=[
                "val_dice",
                *(f"val_dice {name}" for name in store.labels.values()),
                *(case_column(case.name) for case in val_cases),
            ],
            better="val_dice" if val_cases else None,
            save=lambda step: save_weights(run.path / "segmentor.safetensors", network, metadata | {"step": step}),
        ),
        recipe.seed,
    )
    return run, transfer


def _same_cases(run: Run, store: Store) -> list[Case]:
    """The cases that a resumed run was trained on."""
    gone = [name for name in run.about["cases"] if name not in store.cases]
    if gone:
        raise StoreError(f"{store.path}: {gone[0]}, which {run.path} was trained on, is gone; prepare it again.")
    return [store.cases[name] for name in run.about["cases"]]


def labelled_cases(store: Store, labels: str | None, seed: int) -> list[Case]:
    """The labelled train cases that a run may learn from, drawn by seed; fewer are always a part of more.

    Raises:
        StoreError: there are none, or `labels` is neither a share nor a number that fits.
    """
    cases = [case for case in store.in_split("train") if case.label]
    if not cases or not store.labels:
        raise StoreError(f"{store.path}: it has no labelled train case to fine-tune on; prepare a source with labels.")
    if labels is None:
        return cases
    try:
        count = round(float(labels) * len(cases)) if "." in labels else int(labels)
        sensible = float(labels) <= 1.0 if "." in labels else count <= len(cases)
    except ValueError:
        count, sensible = 0, False
    if not sensible or float(labels) <= 0:
        raise StoreError(
            f"--labels {labels}: give a share such as 0.1 or a number from 1 to {len(cases)}, "
            f"the labelled train cases of {store.path}."
        )
    order = np.random.default_rng([seed, 11]).permutation(len(cases))
    return [cases[i] for i in sorted(order[: max(1, count)])]


def validation_dice(
    fabric: Fabric, network: nn.Module, store: Store, cases: Sequence[Case], recipe: Recipe
) -> dict[str, float]:
    """Dice of whole validation scans in the store's spacing: mean over cases, per label, and per case.

    Labels that neither the reference nor the prediction holds are not counted.
    """
    assert recipe.crop is not None
    per_case: dict[str, float] = {}
    per_label: dict[int, list[float]] = {value: [] for value in store.labels}
    for case in cases:
        image = torch.from_numpy(window(store.image(case.name), store.preparation.intensity, recipe.window))
        predicted = predict_probabilities(
            network, fabric.to_device(image), recipe.crop, recipe.overlap, recipe.precision
        ).argmax(0)
        reference = store.label_map(case.name)
        found = {value: dice(predicted.numpy() == value, reference == value) for value in store.labels}
        counted = {value: score for value, score in found.items() if score is not None}
        for value, score in counted.items():
            per_label[value].append(score)
        if counted:
            per_case[case_column(case.name)] = float(np.mean(list(counted.values())))
    figures = {"val_dice": float(np.mean(list(per_case.values()))) if per_case else 0.0} | per_case
    for value, name in store.labels.items():
        if per_label[value]:
            figures[f"val_dice {name}"] = float(np.mean(per_label[value]))
    return figures


def case_column(name: str) -> str:
    """The column of a validation case's mean Dice in metrics.csv."""
    return f"case {name}"

"""Fine-tuning for scan-level classes: from a store and a table of classes, and an encoder or none, to a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from voxmim.errors import RunError, StoreError
from voxmim.images.intensity import window
from voxmim.networks.build import build_encoder
from voxmim.networks.classifier import Classifier
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops
from voxmim.store.format import Store
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.classification.labels import Listed, draw_splits, in_turn, match, read_classes
from voxmim.tasks.classification.metrics import auroc, balanced_accuracy
from voxmim.training.damage import Damage
from voxmim.training.finetune import begin_finetune, count_of, same_cases
from voxmim.training.loop import Job, make_fabric, train
from voxmim.training.nonfinite import image_files
from voxmim.training.run import CHECKPOINT, Run
from voxmim.training.setup import account_of, augmenter, made_of, new_run, stream, weights_metadata
from voxmim.weights.files import save_weights
from voxmim.weights.load import LoadReport

MOST_VALIDATION = 64  # whole scans a validation looks at; with fewer, an AUROC is coarse
MOST_SCALED = 64  # crops, each of another scan, that tell the scale of the encoder's features


def classify(
    store: Store,
    out: Path,
    recipe: Recipe,
    classes: Path | None = None,
    init: Path | None = None,
    labels: str | None = None,
    resume: bool = False,
) -> tuple[Run, LoadReport | None]:
    """Train a classifier of whole scans on random crops of the train cases that a table gives a class.

    With ``finetune.freeze`` 1 the encoder never moves, and what is trained is a linear probe.

    Args:
        store: of prepared scans; label maps are not needed, and not read.
        out: the run folder, new or, with `resume`, one that was stopped.
        recipe: the settings, as for a segmentor.
        classes: CSV file with the columns ``case`` and ``class``; a resumed run knows them itself.
        init: a pre-training's run folder or weights file.
        labels: how many of the train cases to use: a share or a number, drawn so that every class is among them; None
            takes all.
        resume: go on exactly where the run stopped.

    Returns:
        the run, and the account of the weights that moved (None from scratch or from a checkpoint).

    Raises:
        RunError: `out` is occupied, nothing to resume, or no table was given.
        SourceError: the table cannot be used.
        StoreError: a class has no case to train on.
        WeightsError: the weights do not fit the store or the network.
        TrainingError: the loss is no longer finite, or too many scans cannot be read any more.
    """
    recipe, run, start = begin_finetune(store, out, recipe, init, resume)
    assert recipe.crop is not None
    told: list[str] = []
    if run is not None:
        listed: Listed = run.about["listed"]
        train_names = [case.name for case in same_cases(run, store)]
    elif classes is None:
        raise RunError(f"{out}: a classification needs the classes of the scans; give a CSV file with --classes.")
    else:
        listed, told = list_cases(store, classes)
        train_names = train_cases(store, listed, labels, recipe.seed)
    names = sorted(set(listed["train"].values()))
    held = listed.get("val", {})
    val_names = in_turn(held, recipe.seed)[:MOST_VALIDATION]

    fabric = make_fabric(recipe)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder_settings, len(store.preparation.channels), recipe.crop)
    network = Classifier(encoder, len(names))
    transfer = None if start is None else start.load_into(encoder, store, recipe, store.preparation.channels)
    if run is None:
        about: dict[str, Any] = {
            "task": "classification",
            **made_of(store),
            "classes": str(Path(str(classes)).resolve()),
            "cases": train_names,
            "listed": listed,
            "told": told,
        }
        run = new_run(fabric, out, "finetune", recipe, about, start, transfer)
        for line in told if fabric.is_global_zero else []:
            Console(stderr=True, highlight=False).print(line, style="yellow", markup=False, soft_wrap=True)

    training = recipe.finetune
    plan = CropPlan(recipe.crop, recipe.window, recipe.seed, training.crops_per_scan)
    cases = [store.cases[case] for case in train_names]
    damage = account_of(recipe, cases, [store.cases[case] for case in val_names])
    index = {case: names.index(name) for case, name in listed["train"].items()}
    if training.freeze == 1 and not (run.path / CHECKPOINT).is_file():
        once = Crops(store, cases, replace(plan, crops_per_scan=1))
        network.eval().to(fabric.device).fit_scale(
            fabric.to_device(once[number][0][None]) for number in range(min(MOST_SCALED, len(train_names)))
        )
    weights = class_weights([index[case] for case in train_names], len(names))
    metadata = weights_metadata(store, recipe, run) | {
        "kind": "classifier",
        "classes": names,
        "precision": recipe.precision,
    }

    augmented = augmenter(fabric, store, training)

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = augmented(batch)
        truth = torch.tensor([index[case] for case in batch.names])
        each = functional.cross_entropy(wrapped(batch.image).float(), fabric.to_device(truth), reduction="none")
        return (each * fabric.to_device(weights[truth])).mean()

    train(
        fabric,
        run,
        Job(
            title="fine-tuning",
            network=network,
            training=training,
            betas=(0.9, 0.999),
            batches=stream(fabric, Crops(store, cases, plan, damage.found), training.batch, training.steps),
            loss=loss,
            validate=lambda _: (
                validation_figures(
                    fabric, network, store, {case: held[case] for case in val_names}, names, recipe, damage
                )
                if val_names
                else {}
            ),
            columns=["val_loss", "val_balanced_accuracy", "val_auroc", "val_score"] if val_names else [],
            better="val_score" if val_names else None,
            save=lambda step: save_weights(run.path / "classifier.safetensors", network, metadata | {"step": step}),
            files=lambda names: image_files(store, names),
            compile=recipe.compile,
            damage=damage,
        ),
        recipe.seed,
    )
    return run, transfer


def list_cases(store: Store, classes: Path) -> tuple[Listed, list[str]]:
    """The store's cases that have a class, by the store's splits, or by a drawn one where it has none for them.

    Returns:
        the class of each case by split (``train``, ``val``, ``test``), and what takes no part and why, or was drawn,
        a sentence each.

    Raises:
        SourceError: the table cannot be used.
        StoreError: a class has no train case.
    """
    table = read_classes(classes)
    whole = {case.name: case.split for case in store.cases.values() if not case.missing}
    listed, told = match(table, whole, classes, store.path)
    spare = listed.pop("unlabelled", {})
    if listed and spare:
        told.append(f"{len(spare)} listed cases are in the split 'unlabelled' of {store.path}: left out.")
    elif spare:
        drawn = draw_splits(spare, store.seed)
        for split in ("train", "val", "test"):
            listed[split] = {case: name for case, name in spare.items() if drawn[case] == split}
        told.append(
            f"{store.path} has no split of these cases, so one was drawn: {len(listed['train'])} to train, "
            f"{len(listed['val'])} to validate, {len(listed['test'])} to test; a pre-training on this store has seen "
            "them all, though no class."
        )
    known = {name for cases in listed.values() for name in cases.values()}
    lacking = sorted(known - set(listed.get("train", {}).values()))
    if lacking or len(known) < 2:
        raise StoreError(
            f"{classes}: no case of the class {lacking[0]} is in the split 'train' of {store.path}; add one."
            if lacking
            else f"{classes}: {store.path} holds cases of {', '.join(known)} only; add cases of another class."
        )
    return listed, told


def train_cases(store: Store, listed: Listed, labels: str | None, seed: int) -> list[str]:
    """The train cases that a run may learn from, drawn by seed so that each class is there; fewer are part of more.

    Raises:
        StoreError: `labels` is neither a share nor a number that fits.
    """
    cases = listed["train"]
    if labels is None:
        return list(cases)
    chosen = in_turn(cases, seed)[: count_of(labels, len(cases), store, least=len(set(cases.values())))]
    return [case for case in cases if case in chosen]


def class_weights(truth: Sequence[int], classes: int) -> Tensor:
    """(classes,) the weight of each class in the loss: inverse to its number of cases, 1 on average over cases."""
    counts = np.bincount(truth, minlength=classes)
    return torch.tensor(len(truth) / (classes * counts), dtype=torch.float32)


def validation_figures(
    fabric: Fabric,
    network: nn.Module,
    store: Store,
    truth: Mapping[str, str],
    classes: Sequence[str],
    recipe: Recipe,
    damage: Damage | None = None,
) -> dict[str, float]:
    """How well whole validation scans are told apart.

    ``val_loss`` is the cross-entropy, each class weighing the same. ``val_score`` tells the best step: the AUROC, and
    among steps of the same AUROC, which are many where scans are few, the one of the lower loss. Cases that cannot be
    read are not counted; where there is none, nothing is told.
    """
    assert recipe.crop is not None
    cases, right, found = [store.cases[case] for case in truth], [], []
    for _, case, stored in (damage or Damage()).readable(cases, lambda case: store.image(case.name)):
        image = torch.from_numpy(window(stored, store.preparation.intensity, recipe.window))
        right.append(classes.index(truth[case.name]))
        found.append(class_probabilities(network, fabric.to_device(image), recipe.crop, recipe.precision).numpy())
    if not found:
        return {}
    index, given = np.array(right), np.array(found, dtype=np.float64)
    errors = -np.log(np.maximum(given[np.arange(len(index)), index], 1e-7))
    loss = float(np.mean([errors[index == k].mean() for k in np.unique(index)]))
    figures = {"val_loss": loss, "val_balanced_accuracy": float(balanced_accuracy(index, given.argmax(1)))}
    if len(np.unique(index)) > 1:
        figures["val_auroc"] = float(auroc(index, given))
    # A loss is at most 16.2 here, and the least step of the AUROC about a thousandth.
    return figures | {"val_score": figures.get("val_auroc", 0.0) - 1e-5 * loss}

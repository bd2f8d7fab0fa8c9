"""Fine-tuning for any task, from scratch or from weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxmim.console import warn
from voxmim.networks.build import build_encoder
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops
from voxmim.store.format import Store
from voxmim.tasks.registry import TASKS
from voxmim.training.damage import Damage
from voxmim.training.length import with_steps
from voxmim.training.loop import Job, Watcher, train
from voxmim.training.nonfinite import image_files
from voxmim.training.processes import make_fabric
from voxmim.training.run import CHECKPOINT, Run
from voxmim.training.self_training import SelfTraining
from voxmim.training.setup import Beginning, augmenter, begin, new_run, store_entries, stream, weights_metadata
from voxmim.training.validation import Validation
from voxmim.weights.files import save_weights
from voxmim.weights.load import LoadReport
from voxmim.weights.start import carry_decoder


def finetune(
    store: Store,
    out: Path,
    recipe: Recipe,
    init: Path | None = None,
    labels: str | None = None,
    resume: bool = False,
    task: str = "segmentation",
    table: Path | None = None,
    fold: str | None = None,
    watcher: Watcher = lambda *_: None,
) -> tuple[Run, LoadReport | None]:
    """Train a network for a task on the labelled train cases, from weights or from scratch.

    See `voxmim.finetune` for the arguments; `table` is a CSV file of targets, and the first process calls `watcher`
    after each row of metrics.csv. If the recipe has no crop, that of `init` is used.

    Returns:
        the run, and the report on the loaded weights (None from scratch or from a checkpoint).

    Raises:
        RunError: `out` is occupied, there is nothing to resume, or a table is missing.
        StoreError: there is no labelled case to train on.
        SourceError: the table cannot be used.
        WeightsError: the weights do not fit the store or the network.
        TrainingError: the loss is not finite, or too many scans cannot be read.
    """
    recipe, run, start = begin_finetune(store, out, recipe, init, resume)
    fold = fold if run is None else run.about.get("fold")
    store = store.in_fold(fold)
    if run is not None:
        chosen = TASKS[run.about.get("task", "segmentation")].resume(store, run.about, recipe.seed)
    else:
        chosen = TASKS[task].choose(store, labels, recipe.seed, table, start)
    fabric = make_fabric(recipe)
    fabric.launch()
    recipe = with_steps(recipe, chosen.train, "--steps or --hours" if fabric.is_global_zero else "")
    assert recipe.crop is not None
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder_settings, len(store.preparation.channels), recipe.crop)
    network = chosen.network(encoder, recipe)
    transfer = None if start is None else start.load_into(encoder, store, recipe, store.preparation.channels)
    carried = None
    if start is not None and transfer is not None and start.kind != "encoder":
        chosen.load_head(network, start, transfer)
    elif start is not None and recipe.carry_decoder:
        carried = carry_decoder(network, start.file)
    fold_entry = {} if fold is None else {"fold": fold}
    if run is None:
        about: dict[str, Any] = {**store_entries(store), "loss": chosen.loss_name, **chosen.about(), **fold_entry}
        run = new_run(fabric, out, "finetune", recipe, about, start, transfer, carried)
    for note in chosen.notes if fabric.is_global_zero else ():
        warn(note)

    training = recipe.finetune
    plan = CropPlan(recipe.crop, recipe.window, recipe.seed, training.crops_per_scan, labelled=chosen.labelled,
                    foreground=training.foreground)  # fmt: skip
    damage = Damage(len(chosen.train) + len(chosen.val), recipe.max_damaged)
    augmented = augmenter(fabric, store, training, chosen.sides)
    unlabelled = None
    if recipe.self_training.weight > 0:
        unlabelled = SelfTraining(fabric, store, chosen, recipe, damage.errors)
    if not (run.path / CHECKPOINT).is_file():
        once = Crops(store, chosen.train, replace(plan, crops_per_scan=1), damage.errors)

        def crops() -> Iterator[Tensor]:
            for number in range(len(chosen.train)):
                yield once[number][0][None].to(fabric.device)

        chosen.prepare(network.to(fabric.device), crops(), recipe, run.path)

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        batch = augmented(batch)
        labelled = chosen.loss(wrapped(batch.image), batch, training.foreground_weight_at(step))
        if unlabelled is None or job.average is None:
            return labelled
        return labelled + unlabelled.loss(wrapped, job.average.module, step)

    windows = sum(chosen.windows(case, recipe) for case in chosen.val)
    validation = Validation(chosen.val, windows, lambda case: chosen.score_case(network, case, recipe),
                            chosen.figures, chosen.score, training, damage)  # fmt: skip
    metadata = weights_metadata(store, recipe, run) | chosen.metadata(recipe)
    metadata |= {"kind": chosen.product, "precision": recipe.precision, **fold_entry}
    weights = run.path / f"{chosen.product}.safetensors"

    def save(step: int) -> None:
        decided = chosen.decided(validation.scores)
        save_weights(weights, network, metadata | decided | {"step": step})
        run.about.update(decided, best_step=step)
        run.write_about()

    job = Job(
        title="fine-tuning",
        network=network,
        training=training,
        betas=(0.9, 0.999),
        batches=stream(fabric, Crops(store, chosen.train, plan, damage.errors), training.batch, training.steps),
        loss=loss,
        validate=validation if chosen.val else lambda _: {},
        columns=chosen.columns if chosen.val else [],
        best=validation if chosen.val else None,
        save=save,
        files=lambda names: image_files(store, names),
        compile=recipe.compile,
        damage=damage,
        watcher=watcher,
    )
    train(fabric, run, job, recipe.seed)
    return run, transfer


def begin_finetune(store: Store, out: Path, recipe: Recipe, init: Path | None, resume: bool) -> Beginning:
    """Recipe, run and weights of a fine-tuning; from scratch, `scratch_lr` is used and the same in all layers."""
    beginning = begin(store, out, "finetune", recipe, init, resume)
    if resume or init is not None:
        return beginning
    training = beginning.recipe.finetune
    training = replace(training, layer_decay=1.0, lr=training.lr if recipe.scratch_lr is None else recipe.scratch_lr)
    return beginning._replace(recipe=replace(beginning.recipe, finetune=training))

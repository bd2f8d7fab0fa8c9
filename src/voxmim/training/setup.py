"""What every training sets up: where it begins, its run folder, its crops and how they are changed."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from voxmim.console import CONSOLE
from voxmim.errors import RunError, StoreError
from voxmim.networks.build import describe_encoder
from voxmim.networks.precision import chosen_precision
from voxmim.recipe import Recipe, with_crop
from voxmim.settings import Training
from voxmim.store import augment
from voxmim.store.crops import Batch, Crops, batches
from voxmim.store.format import Store
from voxmim.store.sides import Sides
from voxmim.training.one_process import Fabric
from voxmim.training.run import CHECKPOINT, Run, refuse_occupied
from voxmim.weights.load import LoadReport
from voxmim.weights.start import Start, account

_NAMED = 5  # findings that a refusal names


class Beginning(NamedTuple):
    """Where a training begins."""

    recipe: Recipe  # with what follows from the weights, the store and the device
    run: Run | None  # the run to resume, or None where a new one is to be made
    start: Start | None  # the weights to start from, or None from nothing or from a checkpoint


def begin(store: Store, out: Path, kind: str, recipe: Recipe, init: Path | None, resume: bool) -> Beginning:
    """The start of every training: the recipe to follow, and the run or the weights to continue from.

    Raises:
        RunError: `out` is occupied, or nothing to resume, or a run of another kind or store.
        RecipeError: the crop does not fit the encoder or the masks.
        WeightsError: there are no such weights.
    """
    if resume:
        run = Run.open(out, kind)
        if run.about["store"] != str(store.path.resolve()) and run.about.get("digest") != store.digest():
            raise RunError(
                f"{out}: this run was trained on {run.about['store']}, and {store.path} holds other data; give that "
                "store or a copy of it."
            )
        run.about |= made_of(store)
        before_first_checkpoint = run.about.get("init") is not None and not (run.path / CHECKPOINT).is_file()
        return Beginning(run.recipe(), run, Start.read(Path(run.about["init"])) if before_first_checkpoint else None)
    start = None if init is None else Start.read(init)
    refuse_occupied(out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = replace(recipe, precision=chosen_precision(recipe.precision, device))
    if start is not None:
        recipe = replace(recipe, crop=recipe.crop or start.crop)
    shapes = [case.shape for case in store.in_split("train", "unlabelled")]
    shapes = shapes or [case.shape for case in store.cases.values()]
    return Beginning(with_crop(recipe, shapes, str(store.path), masked=kind == "pretrain"), None, start)


def refuse_unresolved(store: Store, accepted: bool = False) -> None:
    """Refuse to train on what is probably wrong, unless somebody accepted it.

    Raises:
        StoreError: findings of the store are in doubt.
    """
    found = [] if accepted else store.unresolved
    if found:
        named = ", ".join(f"{finding.kind}: {finding.file}" for finding in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise StoreError(
            f"{store.path}: {len(found)} of its findings are in doubt ({named}{more}); mend these files or take them "
            "out and prepare again, or train all the same with --accept-findings."
        )


def made_of(store: Store) -> dict[str, Any]:
    """What a run's notes say of its store: where it is, and what was accepted of it."""
    accepted = [f"{finding.kind}: {finding.file}" for finding in store.unresolved]
    return {
        "store": str(store.path.resolve()),
        "digest": store.digest(),
        **({"accepted_findings": accepted} if accepted else {}),
    }


def new_run(
    fabric: Fabric,
    out: Path,
    kind: str,
    recipe: Recipe,
    about: dict[str, Any],
    start: Start | None,
    transfer: LoadReport | None,
    decoder: LoadReport | None = None,
) -> Run:
    """Create the run folder in the first process, for all of them; print which weights were loaded."""
    run = Run(out, kind, about | account(start, transfer, decoder))
    if fabric.is_global_zero:
        if start is not None and transfer is not None:
            transfer.show(start.file)
        Run.new(out, kind, recipe, run.about)
    fabric.barrier()
    return run


def stream(fabric: Fabric, crops: Crops, batch: int, steps: int) -> Callable[[int], Iterator[Batch]]:
    """Yield this process's part of the crops of each step, from a step on; `batch` counts over all processes."""
    return lambda first: batches(crops, batch, first, steps, fabric.global_rank, fabric.world_size)


def augmenter(fabric: Fabric, store: Store, training: Training, sides: Sides | None = None) -> Callable[[Batch], Batch]:
    """Puts a batch onto this process's device and changes it as its seeds say; `sides` are those of its labels."""
    sides = sides or Sides()
    augmentation, notes = sides.restrict(training.augmentation)
    for note in notes if fabric.is_global_zero else ():
        CONSOLE.print(note, soft_wrap=True)

    def changed(batch: Batch) -> Batch:
        batch = batch._replace(image=fabric.to_device(batch.image), label=fabric.to_device(batch.label))
        parameters = augment.draw(augmentation, batch.seed, sides.partner)
        return augment.apply(batch, parameters, store.preparation.spacing)

    return changed


def weights_metadata(store: Store, recipe: Recipe, run: Run) -> dict[str, Any]:
    """Metadata of every weights file: how it was made, and what a scan must be like."""
    origin = run.about.get("origin")
    return {
        "preparation": asdict(store.preparation),
        "window": list(recipe.window),
        "crop": list(recipe.crop or ()),
        **describe_encoder(recipe.encoder, recipe.encoder_settings),
        "data": {"name": store.name, "digest": store.digest(), "seed": store.seed, "licence": store.licence},
        **({"init": origin} if origin else {}),
        "seed": recipe.seed,
    }

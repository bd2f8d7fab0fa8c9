"""The setup of every training: its recipe and weights, run folder, crops and augmentation."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from voxmim.console import CONSOLE, plain
from voxmim.errors import RunError, StoreError
from voxmim.networks.build import describe_encoder
from voxmim.networks.precision import chosen_precision
from voxmim.recipe import Recipe, with_crop
from voxmim.settings import Training
from voxmim.store import augment
from voxmim.store.crops import Batch, Crops, batches
from voxmim.store.format import Store
from voxmim.store.sides import Sides
from voxmim.text import counted
from voxmim.training.one_process import Fabric
from voxmim.training.run import CHECKPOINT, Run, refuse_occupied
from voxmim.weights.load import LoadReport
from voxmim.weights.start import Start, start_entries

_NAMED = 5  # findings in an error message


class Beginning(NamedTuple):
    """The start of a training."""

    recipe: Recipe  # with the crop and the precision of the store, the weights and the device
    run: Run | None  # the run to resume, or None for a new one
    start: Start | None  # the weights to start from, or None from scratch or from a checkpoint


def begin(store: Store, out: Path, kind: str, recipe: Recipe, init: Path | None, resume: bool) -> Beginning:
    """Find the recipe of a training, and the run or the weights that it continues from.

    Raises:
        RunError: `out` is occupied, there is nothing to resume, or the run is of another kind or store.
        RecipeError: the crop does not fit the encoder or the masks.
        WeightsError: the weights cannot be read.
    """
    if resume:
        run = Run.open(out, kind)
        if run.about["store"] != str(store.path.resolve()) and run.about.get("digest") != store.digest():
            raise RunError(
                f"{out}: this run was trained on {run.about['store']}, and {store.path} holds other data; give that "
                "store or a copy of it."
            )
        run.about |= store_entries(store)
        if (run.path / CHECKPOINT).is_file():
            return Beginning(run.recipe(), run, None)
        CONSOLE.print(plain(f"{out}: it was stopped before its first checkpoint and starts anew."), soft_wrap=True)
        init = run.about.get("init")
        return Beginning(run.recipe(), run, None if init is None else Start.read(Path(init)))
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
    """Check that a store has no unresolved findings, unless they are accepted.

    Raises:
        StoreError: there are some.
    """
    findings = [] if accepted else store.unresolved
    if findings:
        named = ", ".join(f"{finding.kind}: {finding.file}" for finding in findings[:_NAMED])
        more = f" and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
        raise StoreError(
            f"{store.path}: {counted(len(findings), 'finding')} in doubt ({named}{more}); mend these files or take "
            "them out and prepare again, or train all the same with --accept-findings."
        )


def store_entries(store: Store) -> dict[str, Any]:
    """The entries of run.json on the store: its path and digest, and accepted findings."""
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
    """Create the run folder in the first process, and print which weights were loaded."""
    run = Run(out, kind, about | start_entries(start, transfer, decoder))
    if fabric.is_global_zero:
        if start is not None and transfer is not None:
            transfer.show(start.file)
        Run.new(out, kind, recipe, run.about)
    fabric.barrier()
    return run


def stream(fabric: Fabric, crops: Crops, batch: int, steps: int) -> Callable[[int], Iterator[Batch]]:
    """A function from a first step to this process's batches; `batch` is the size over all processes."""
    return lambda first: batches(crops, batch, first, steps, fabric.global_rank, fabric.world_size)


def augmenter(fabric: Fabric, store: Store, training: Training, sides: Sides | None = None) -> Callable[[Batch], Batch]:
    """A function that moves a batch to this process's device and augments it; `sides` are those of its labels."""
    sides = sides or Sides()
    augmentation, notes = sides.restrict(training.augmentation)
    for note in notes if fabric.is_global_zero else ():
        CONSOLE.print(note, soft_wrap=True)

    def augmented(batch: Batch) -> Batch:
        batch = batch._replace(image=fabric.to_device(batch.image), label=fabric.to_device(batch.label))
        parameters = augment.draw(augmentation, batch.seed, sides.partner)
        return augment.apply(batch, parameters, store.preparation.spacing)

    return augmented


def weights_metadata(store: Store, recipe: Recipe, run: Run) -> dict[str, Any]:
    """The metadata of every weights file: its origin, and how scans must be prepared."""
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

"""Pre-training, fine-tuning, plans and recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from voxmim.recipe import Recipe
    from voxmim.store.format import Store
    from voxmim.training.plan import Plan

DEFAULT_RECIPE = "resenc-tiny"


def pretrain(
    store: Path | str,
    out: Path | str,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    init: Path | str | None = None,
    hours: float | None = None,
    accept_findings: bool = False,
    quiet: bool = False,
    log_every: int = 0,
    log: Sequence[Literal["tensorboard", "wandb", "mlflow"]] = (),
) -> Path:
    """Pre-train an encoder on the scans of a store.

    The splits train and unlabelled are used. Labels are never read.

    Args:
        store: folder written by 'voxmim prepare'.
        out: run folder: new, or a stopped run to resume.
        recipe: packaged recipe or YAML file. Default: that of the initial weights, or resenc-tiny.
        settings: settings that differ from the recipe, such as mask.ratio=0.6.
        resume: continue exactly where the run stopped, with its own settings.
        init: run folder or weights file to start from. Its encoder replaces that of the recipe; a patch in the settings
            adapts it. Default: random weights.
        hours: train for about this many hours; a few steps are timed to choose the number of steps. Default: the steps
            of the recipe.
        accept_findings: train although some findings of the store are in doubt.
        quiet: print no progress.
        log_every: print a line every N steps. Default: a bar on a terminal, elsewhere a line every 30 s or 1 %.
        log: loggers to use. wandb and mlflow write into the run folder unless WANDB_MODE or MLFLOW_TRACKING_URI is set.

    Returns:
        The run folder, with encoder.safetensors and report.html.

    Raises:
        VoxmimError: the store, the recipe, the weights or the run folder cannot be used.
    """
    from voxmim.report.live import Watcher
    from voxmim.training.plan import for_hours
    from voxmim.training.pretrain import pretrain
    from voxmim.training.processes import first_process
    from voxmim.training.progress import progress_options

    watcher = Watcher(log)  # first, since it names a package that is missing
    start = None if init is None else Path(init)
    if resume:
        chosen = _resumed(out, recipe=recipe, init=init, hours=hours, **(settings or {}))
    else:
        chosen = _started(recipe, start, settings, pretext=recipe is None)
    opened = _opened(store, resume or accept_findings)
    if hours is not None:
        chosen = for_hours(opened, chosen, hours, init=start)
    with progress_options(quiet, log_every), watcher:
        run = pretrain(opened, Path(out), chosen, resume, start, watcher)
        if first_process():
            watcher.finish(run)
    return run.path


def plan(
    store: Path | str,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    kind: Literal["pretrain", "finetune"] = "pretrain",
    init: Path | str | None = None,
    **options: Any,
) -> Plan:
    """Estimate the time, memory and disk of a training from a few of its steps. Nothing is kept.

    Args:
        store: folder written by 'voxmim prepare'.
        recipe: packaged recipe or YAML file. Default: that of the initial weights, or resenc-tiny.
        settings: settings that differ from the recipe.
        kind: which training.
        init: run folder or weights file to start from. Default: from scratch.
        options: of `finetune`: labels, task, classes, values and fold.

    Returns:
        The estimate.

    Raises:
        VoxmimError: the store, the recipe or the weights cannot be used.
    """
    from voxmim.store.format import Store
    from voxmim.training.plan import plan

    start = None if init is None else Path(init)
    chosen = _started(recipe, start, settings, pretext=kind == "pretrain" and recipe is None)
    return plan(Store(store), chosen, kind, init=start, **(_task_options(**options) if kind == "finetune" else options))


def finetune(
    store: Path | str,
    out: Path | str,
    init: Path | str | None = None,
    labels: str | float | int | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    task: Literal["segmentation", "classification", "regression"] | None = None,
    classes: Path | str | None = None,
    values: Path | str | None = None,
    fold: str | None = None,
    hours: float | None = None,
    accept_findings: bool = False,
    quiet: bool = False,
    log_every: int = 0,
    log: Sequence[Literal["tensorboard", "wandb", "mlflow"]] = (),
) -> Path:
    """Train a segmentor, classifier or regressor, from a pre-trained encoder or from scratch.

    Args:
        store: folder written by 'voxmim prepare', with labels for a segmentation.
        out: run folder: new, or a stopped run to resume.
        init: run folder or weights file to start from: a pre-trained encoder, or a fine-tuned network with its decoder
            and its labels, matched by name. Its encoder replaces that of the recipe; a patch in the settings adapts it.
            Default: from scratch.
        labels: labelled training cases to use: a fraction (0.1), a number (12) or all (the default).
        recipe: packaged recipe or YAML file. Default: that of the initial weights, or resenc-tiny.
        settings: settings that differ from the recipe, such as finetune.ema=0.99.
        resume: continue exactly where the run stopped, with its own settings.
        task: the task. Default: segmentation.
        classes: for a classification, CSV file with the columns case and class.
        values: for a regression of a number per scan, CSV file with the columns case and value.
        fold: one fold of a cross-validation by patient, as K/N. The train and val cases are divided into N parts; part
            K, counted from 1, is for validation. Default: the splits of the store.
        hours: train for about this many hours; a few steps are timed to choose the number of steps. Default: the steps
            of the recipe.
        accept_findings: train although some findings of the store are in doubt.
        quiet: print no progress.
        log_every: print a line every N steps. Default: a bar on a terminal, elsewhere a line every 30 s or 1 %.
        log: loggers to use. wandb and mlflow write into the run folder unless WANDB_MODE or MLFLOW_TRACKING_URI is set.

    Returns:
        The run folder, with segmentor.safetensors (or classifier.safetensors, ...) and report.html.

    Raises:
        VoxmimError: the store, the recipe, the weights or the run folder cannot be used.
    """
    from voxmim.report.live import Watcher
    from voxmim.training.finetune import finetune
    from voxmim.training.plan import for_hours
    from voxmim.training.processes import first_process
    from voxmim.training.progress import progress_options

    watcher = Watcher(log)  # first, since it names a package that is missing
    start = None if init is None else Path(init)
    if resume:
        given = {
            "init": init, "labels": labels, "task": task, "classes": classes, "values": values, "fold": fold,
            "hours": hours,
        }  # fmt: skip
        chosen = _resumed(out, recipe=recipe, **given, **(settings or {}))
    else:
        chosen = _started(recipe, start, settings)
    options = {"init": start, **_task_options(labels, task, classes, values, fold)}
    opened = _opened(store, resume or accept_findings)
    if hours is not None:
        chosen = for_hours(opened, chosen, hours, "finetune", **options)
    with progress_options(quiet, log_every), watcher:
        run, _ = finetune(opened, Path(out), chosen, resume=resume, watcher=watcher, **options)
        if first_process():
            watcher.finish(run)
    return run.path


def recipes(name: str | None = None) -> dict[str, str] | Recipe:
    """List the packaged recipes, or print all settings of one.

    Args:
        name: packaged recipe or YAML file to print.

    Returns:
        What each packaged recipe is for, or the settings of the one named.

    Raises:
        RecipeError: there is no such recipe.
    """
    from voxmim.recipe import load_recipe, packaged_recipes

    return packaged_recipes() if name is None else load_recipe(name)


def _task_options(
    labels: str | float | int | None = None,
    task: str | None = None,
    classes: Path | str | None = None,
    values: Path | str | None = None,
    fold: str | None = None,
) -> dict[str, Any]:
    """The arguments of `training.finetune.finetune` for a task and its cases; raises RunError for an unknown task."""
    from voxmim.errors import RunError, nearest
    from voxmim.tasks.registry import TASKS

    task = task or "segmentation"
    if task not in TASKS:
        raise RunError(f"'{task}' is no task of a fine-tuning ({', '.join(TASKS)}){nearest(task, TASKS) or '.'}")
    table = TASKS[task].table_of(classes, values)
    return {"labels": None if labels is None else str(labels), "task": task, "table": table, "fold": fold}


def _opened(store: Path | str, accepted: bool) -> Store:
    """Open a store; raises StoreError if it has unresolved findings that are not accepted."""
    from voxmim.store.format import Store
    from voxmim.training.setup import refuse_unresolved

    opened = Store(store)
    refuse_unresolved(opened, accepted)
    return opened


def _started(
    recipe: str | Path | None, init: Path | None, settings: Mapping[str, Any] | None, pretext: bool = True
) -> Recipe:
    """The recipe of a new run: `settings` override those of the weights `init`, which override the recipe."""
    from voxmim.recipe import load_recipe
    from voxmim.training.run import RECIPE
    from voxmim.weights.start import Start, settings_from

    if init is None:
        return load_recipe(recipe or DEFAULT_RECIPE, settings)
    own = init / RECIPE
    known = settings_from(Start.read(init).metadata, pretext)
    return load_recipe(recipe or (own if own.is_file() else DEFAULT_RECIPE), {**known, **(settings or {})})


def _resumed(out: Path | str, **given: Any) -> Recipe:
    """The recipe of the run to resume, which takes no new settings."""
    from voxmim.errors import RunError
    from voxmim.training.run import Run

    changed = [name for name, value in given.items() if value is not None]
    if changed:
        raise RunError(
            f"{out}: a resumed run keeps its own settings; leave out {', '.join(changed)}, or go on from its weights "
            f"in a new run with --init {out}."
        )
    return Run.open(out).recipe()

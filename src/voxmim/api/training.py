"""Trainings: pre-training, what it would take, and fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmim.api.tasks import TASKS, refuse_classes, task_of
from voxmim.errors import RunError, nearest
from voxmim.recipe import load_recipe
from voxmim.report.classifier_page import classify_page
from voxmim.report.run_pages import finetune_page, pretrain_page
from voxmim.settings import Recipe
from voxmim.store.format import Store
from voxmim.training.classify import classify as _classify
from voxmim.training.finetune import finetune as _finetune
from voxmim.training.plan import Plan
from voxmim.training.plan import plan as _plan
from voxmim.training.pretrain import pretrain as _pretrain
from voxmim.training.processes import first_process
from voxmim.training.run import RECIPE, Run
from voxmim.training.setup import refuse_unresolved
from voxmim.weights.start import Start, settings_from

DEFAULT_RECIPE = "tiny"


def pretrain(
    store: Path | str,
    out: Path | str,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    init: Path | str | None = None,
    accept_findings: bool = False,
) -> Path:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    Args:
        store: folder of prepared scans.
        out: the run folder: new, or one that was stopped, with `resume`.
        recipe: name of a packaged recipe, or a YAML file; None takes that of `init`'s run, or ``tiny``.
        settings: what differs from the recipe, such as ``{"mask.ratio": 0.6, "pretrain.steps": 2000}``.
        resume: go on exactly where the run stopped, with its own settings.
        init: a pre-training's run folder or weights file to start from, whose encoder takes the place of the recipe's;
            a patch that `settings` tell is kept, and the weights are made to fit it. None starts from nothing.
        accept_findings: train although findings of the store are in doubt (`Store.unresolved`).

    Returns:
        the run folder; it holds ``encoder.safetensors`` and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    start = None if init is None else Path(init)
    if resume:
        chosen = _resumed(out, recipe=recipe, init=init, **(settings or {}))
    else:
        chosen = _started(recipe, start, settings, pretext=recipe is None)
    run = _pretrain(_opened(store, resume or accept_findings), Path(out), chosen, resume, start)
    if first_process():
        pretrain_page(run)
    return run.path


def plan(store: Path | str, recipe: str | Path | None = None, settings: Mapping[str, Any] | None = None) -> Plan:
    """What a pre-training would take, from a trial of some of its steps; nothing of it is kept.

    Args:
        store: folder of prepared scans.
        recipe: name of a packaged recipe, or a YAML file; None takes ``tiny``.
        settings: what differs from the recipe.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return _plan(Store(store), load_recipe(recipe or DEFAULT_RECIPE, settings))


def finetune(
    store: Path | str,
    out: Path | str,
    init: Path | str | None = None,
    labels: str | float | int | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    task: str | None = None,
    classes: Path | str | None = None,
    accept_findings: bool = False,
) -> Path:
    """Train a segmentor, or a classifier of whole scans, from a pre-trained encoder or from scratch.

    Args:
        store: folder of prepared scans, with labels for a segmentation.
        out: the run folder: new, or one that was stopped, with `resume`.
        init: a pre-training's run folder or weights file, whose encoder takes the place of the recipe's; a patch that
            `settings` tell is kept, and the weights are made to fit it. None starts from scratch.
        labels: labelled cases to use: a share (0.1), a number (12), or None for all.
        recipe: name of a packaged recipe, or a YAML file; None takes that of `init`'s run, or ``tiny``.
        settings: what differs from the recipe.
        resume: go on exactly where the run stopped, with its own settings.
        task: ``segmentation`` (also None) or ``classification``.
        classes: for a classification, a CSV file with the columns ``case`` and ``class``.
        accept_findings: train although findings of the store are in doubt (`Store.unresolved`).

    Returns:
        the run folder; it holds ``segmentor.safetensors`` or ``classifier.safetensors``, and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    start = None if init is None else Path(init)
    if resume:
        told = {"init": init, "labels": labels, "task": task, "classes": classes}
        chosen, task = _resumed(out, recipe=recipe, **told, **(settings or {})), task_of(Path(out))
    else:
        chosen = _started(recipe, start, settings)
    share = None if labels is None else str(labels)
    if task not in (None, *TASKS):
        raise RunError(f"'{task}' is no task of a fine-tuning ({', '.join(TASKS)}){nearest(str(task), TASKS) or '.'}")
    opened = _opened(store, resume or accept_findings)
    if task == "classification":
        table = None if classes is None else Path(classes)
        run, _ = _classify(opened, Path(out), chosen, table, start, share, resume)
    else:
        refuse_classes(classes)
        run, _ = _finetune(opened, Path(out), chosen, start, share, resume)
    if first_process():
        (classify_page if task == "classification" else finetune_page)(run)
    return run.path


def _opened(store: Path | str, accepted: bool) -> Store:
    found = Store(store)
    refuse_unresolved(found, accepted)
    return found


def _started(
    recipe: str | Path | None, init: Path | None, settings: Mapping[str, Any] | None, pretext: bool = True
) -> Recipe:
    """The recipe of a new run: what is told comes before what the weights of `init` are, and that before the recipe."""
    if init is None:
        return load_recipe(recipe or DEFAULT_RECIPE, settings)
    own = init / RECIPE
    known = settings_from(Start.read(init).metadata, pretext)
    return load_recipe(recipe or (own if own.is_file() else DEFAULT_RECIPE), {**known, **(settings or {})})


def _resumed(out: Path | str, **told: Any) -> Recipe:
    """The recipe of the run that goes on; nothing of it can be told anew."""
    anew = [name for name, value in told.items() if value is not None]
    if anew:
        raise RunError(f"{out}: a resumed run keeps its own settings; leave out {', '.join(anew)}.")
    return Run.open(out).recipe()

"""The page of a run and its status for scripts."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from voxmim.errors import StoreError
from voxmim.files import atomic_write, write_json
from voxmim.networks.build import has_patch_setting
from voxmim.recipe import Recipe, recipe_to_yaml
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Curve, Plot
from voxmim.report.run_pictures import reconstruction_pictures, segmentation_pictures
from voxmim.settings import Training
from voxmim.store.format import Store
from voxmim.tasks.registry import TASKS, task_of
from voxmim.text import counted, sizes_in_words
from voxmim.training.plateau import in_words
from voxmim.training.run import RECIPE, Run

REPORT, STATUS = "report.html", "status.json"
REFRESH = 30  # seconds after which the page of a running training reloads
_MAX_POINTS = 400  # of a loss curve
_SMOOTH = 25  # steps that a loss curve averages


def write_run_page(run: Run, running: bool = False) -> Page:
    """Write ``report.html``, ``figures/`` and ``status.json`` atomically; the page of a `running` run reloads."""
    recipe, rows = run.recipe(), run.metrics()
    training: Training = getattr(recipe, run.kind)
    store = store_of(run)
    page = (_pretraining if run.kind == "pretrain" else _finetuning)(run, recipe, rows)
    if run.about.get("init"):
        page.lead[0] += f" It started from {run.about['init']}."
        page.facts.append(("loaded weights", run.about["transfer"]))
    page.lead += run.about.get("warnings", [])
    page.lead += [] if running else [done_in_words(run)]
    page.facts = [*run_facts(run, recipe, training, rows, store), *page.facts]
    step = _last_step(rows)
    if running:
        page.lead.insert(0, f"In progress: step {step} of {training.steps}.")
        page.refresh = REFRESH
    elif step < training.steps:
        page.lead.insert(0, f"Stopped after step {step} of {training.steps}; --resume continues it.")
    if store is not None:
        page.pictures = _pictures(run, store)
    page.settings = recipe_to_yaml(recipe)
    page.commands.insert(0, repeat_command(run))
    for index, picture in enumerate(page.pictures, start=1):
        name = f"{index:02d}-{picture.title.replace(' ', '-').replace('/', '-')}.png"
        with atomic_write(run.path / "figures" / name) as file:
            file.write_bytes(picture.png)
    write_page(run.path / REPORT, page)
    write_json(run.path / STATUS, status(rows, training, running))
    return page


def _pictures(run: Run, store: Store) -> list[Picture]:
    """Pictures of fixed cases by the latest weights; none before there are weights, or if a GPU is out of memory."""
    with suppress(torch.OutOfMemoryError):
        if run.kind == "pretrain":
            return reconstruction_pictures(run, store) if (run.path / "pretext.safetensors").is_file() else []
        if task_of(run.path).labelled and (run.path / "segmentor.safetensors").is_file():
            return segmentation_pictures({"segmentor": run}, store)
    return []


def status(rows: Sequence[Mapping[str, float]], training: Training, running: bool) -> dict[str, Any]:
    """The status of a run: state, steps, seconds, and the last training loss and validation."""
    figures = [{key: row[key] for key in row if key.startswith(("val_", "step"))} for row in rows]
    return {
        "state": "running" if running else "done" if _last_step(rows) >= training.steps else "stopped",
        "step": _last_step(rows),
        "steps": training.steps,
        "seconds": rows[-1]["seconds"] if rows else 0.0,
        "loss": rows[-1].get("loss") if rows else None,
        "validation": next((row for row in reversed(figures) if len(row) > 1), None),
    }


def _pretraining(run: Run, recipe: Recipe, rows: Sequence[Mapping[str, float]]) -> Page:
    pretext, settings = recipe.pretext_class, recipe.pretext_settings
    validated = [row for row in rows if "val_loss" in row]
    learned = pretext.summary(settings, recipe.mask)
    steps = counted(recipe.pretrain.steps, "step")
    lead = [f"An encoder {learned}. It {_trained(rows, recipe.pretrain)} for {steps}, without labels."]
    if validated:
        lead.append(pretext.progress(settings, validated[0], validated[-1]))
        lead.append(pretext.warning(settings, validated[-1], recipe.pretrain.steps))
    title, axis = pretext.loss_name(settings)
    plot = Plot(title, "optimiser step", axis, pretraining_curves(rows, pretext.guess))
    return Page(f"Pre-training: {run.path.name}", lead, plots=[plot])


def _finetuning(run: Run, recipe: Recipe, rows: Sequence[Mapping[str, float]]) -> Page:
    task, training = task_of(run.path), recipe.finetune
    validated = [row for row in rows if task.score in row]
    start = "from a pre-trained encoder" if run.about.get("init") else "from scratch"
    cases, steps = counted(len(run.about["cases"]), "case"), counted(training.steps, "step")
    lead = [f"A {task.product} {_trained(rows, training)} {start} on {cases}, for {steps}."]
    if training.freeze == 1:
        lead[0] += " The encoder was frozen."
    if validated:
        kept = run.about.get("best_step")
        best = max(validated, key=lambda row: (row["step"] == kept, row[task.score]))
        lead.append(
            f"Its best {task.score_name} on validation cases was {best[task.score]:.3f}, at step {int(best['step'])}; "
            "the weights of that step were kept."
        )
    shown = task.curves(dict.fromkeys(column for row in validated for column in row))
    curves = [curve(name, [row for row in validated if column in row], column) for column, name in shown.items()]
    plots = [Plot("Validation cases", "optimiser step", task.score_name, curves)] if curves else []
    loss = Plot("Loss", "optimiser step", run.about.get("loss", "loss"), [loss_curve(rows)])
    results = [json.loads(file.read_text()) for file in sorted(run.path.glob("evaluation-*.json"))]
    return Page(
        f"{task.title}: {run.path.name}",
        lead,
        tables=[Table(*table) for result in results for table in task.tables(result)],
        plots=[*plots, loss],
        facts=task.facts(run.about),
        commands=[_evaluate_command(result) for result in results],
    )


def done_in_words(run: Run) -> str:
    """A sentence on whether a finished run has reached its plateau; empty after few validations.

    The score of a pre-training is 1 - loss / loss of guessing.
    """
    rows = run.metrics()
    if _last_step(rows) < getattr(run.recipe(), run.kind).steps:
        return ""
    if run.kind == "pretrain":
        name = "fraction of the loss of guessing that is avoided"
        scores = {int(row["step"]): 1 - row["val_loss"] / row["val_guess"] for row in rows if "val_loss" in row}
    else:
        task = task_of(run.path)
        name, scores = task.score_name, run.curve(task.score)
    return in_words(np.array(list(scores)), np.array(list(scores.values())), name)


def run_facts(
    run: Run, recipe: Recipe, training: Training, rows: Sequence[Mapping[str, float]], store: Store | None
) -> list[tuple[str, str]]:
    """Data, settings and machine of a run, as (name, value)."""
    facts = [("run", str(run.path)), ("store", run.about["store"])]
    if "fold" in run.about:
        facts.append(("fold", run.about["fold"]))
    if store is not None:
        preparation = store.preparation
        spacing = sizes_in_words(preparation.spacing)
        scans = f"{store.name}: {len(store.cases)} of {preparation.intensity.upper()}, at {spacing} mm"
        facts += [("scans", scans), ("data hash", store.digest())]
        if len(preparation.channels) > 1:
            how = {"all": "", "drawn": "; each crop had some of them", "one": "; each crop had one of them"}
            shown = how[recipe.channels] if run.kind == "pretrain" else ""
            facts.append(("channels", f"{', '.join(preparation.channels)}{shown}"))
    cases = run.about["cases"]
    samples = recipe.pretext_class.samples if run.kind == "pretrain" else "crops"
    crop, patch = sizes_in_words(recipe.crop or ()), sizes_in_words(recipe.encoder_settings.patch)
    facts += [
        ("trained on", counted(cases if isinstance(cases, int) else len(cases), "case")),
        ("crop and patch", f"{crop} voxels, in patches of {patch}"),
        ("encoder", recipe.encoder_settings.summary()),
        ("steps", f"{training.steps} of {training.batch} {samples}, peak lr {training.lr:g}"),
        ("seed, precision", f"{recipe.seed}, {recipe.precision}"),
    ]
    if recipe.nodes * recipe.devices > 1:
        facts.append(("processes", f"{recipe.devices} on each of {counted(recipe.nodes, 'node')}"))
    if training.ema:
        facts.append(("weights", f"exponential moving average, decay {training.ema:g}"))
    if training.freeze:
        facts.append(("encoder frozen", f"for {training.freeze:.0%} of the steps"))
    if rows:
        facts.append(("time", f"{rows[-1]['seconds'] / 60:.1f} minutes"))
    facts.append(("versions", ", ".join(f"{name} {version(name)}" for name in ("voxmim", "torch", "monai"))))
    return facts


def repeat_command(run: Run) -> str:
    """The command that repeats the training with the run's resolved recipe."""
    command = ["voxmim", run.kind, run.about["store"], "OUT", "--recipe", str(run.path / RECIPE)]
    if run.kind == "finetune":
        command += ["--labels", str(len(run.about["cases"]))]
        command += ["--task", run.about["task"]] if "task" in run.about else []
        for option in ("classes", "values", "fold"):
            command += [f"--{option}", run.about[option]] if option in run.about else []
    if run.about.get("init"):
        command += init_options(run.about["init"], run.recipe())
    return shlex.join(command)


def init_options(init: str, recipe: Recipe) -> list[str]:
    """Options to start from weights with the recipe's patch and window instead of the weights'."""
    options = ["--init", init, "--set", f"window={list(recipe.window)}"]
    if has_patch_setting(recipe.encoder_settings):
        options += ["--set", f"{recipe.encoder}.patch={list(recipe.encoder_settings.patch)}"]
    return options


def _evaluate_command(result: Mapping[str, Any]) -> str:
    command = ["voxmim", "evaluate", result["run"], result["data"], "--split", result["split"]]
    option = TASKS[result.get("task", "segmentation")].option
    return shlex.join(command + ([option, result["table"]] if "table" in result else []))


def pretraining_curves(rows: Sequence[Mapping[str, float]], guess: str) -> list[Curve]:
    """The loss on training and validation crops, and that of guessing."""
    validated = [row for row in rows if "val_loss" in row]
    names = {"val_loss": "validation crops, always the same", "val_guess": guess}
    curves = [curve(name, validated, column) for column, name in names.items() if validated and column in validated[0]]
    return [loss_curve(rows), *curves]


def curve(name: str, rows: Sequence[Mapping[str, float]], column: str) -> Curve:
    """One column of the metrics against the steps."""
    return Curve(name, [int(row["step"]) for row in rows], [row[column] for row in rows])


def loss_curve(rows: Sequence[Mapping[str, float]]) -> Curve:
    """The running mean of the training loss, with about `_MAX_POINTS` points at most."""
    rows = [row for row in rows if "loss" in row]
    losses = np.array([row["loss"] for row in rows])
    if not len(losses):
        return Curve("training crops", [], [])
    width = min(_SMOOTH, max(1, len(losses) // 10))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    steps = [int(row["step"]) for row in rows[width - 1 :]]
    every = max(1, len(steps) // _MAX_POINTS)
    return Curve(f"training crops, mean of {counted(width, 'step')}", steps[::every], smooth[::every].tolist())


def store_of(run: Run) -> Store | None:
    """The run's store, or None if it is missing; the page then has no pictures."""
    try:
        return Store(run.about["store"]).in_fold(run.about.get("fold"))
    except StoreError:
        return None


def _trained(rows: Sequence[Mapping[str, float]], training: Training) -> str:
    return "was trained" if _last_step(rows) >= training.steps else "is to be trained"


def _last_step(rows: Sequence[Mapping[str, float]]) -> int:
    return int(rows[-1]["step"]) if rows else 0

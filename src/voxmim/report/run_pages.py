"""The report of one run: what was run on what, its curves, its pictures, its results, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import StoreError
from voxmim.files import atomic_write
from voxmim.images.geometry import Grid
from voxmim.images.intensity import window
from voxmim.networks.build import has_patch_setting
from voxmim.recipe import recipe_to_yaml
from voxmim.report.figures import HIDDEN_COLOUR, display_range, label_colour, middle_of, segmentation_picture
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Curve, Plot
from voxmim.report.reconstruct import Reconstructor, picture
from voxmim.settings import Training
from voxmim.store.format import Case, Store
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.segmentation.evaluate import result_tables
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.tasks.segmentation.task import Segmentation
from voxmim.text import sizes_in_words
from voxmim.training.damage import Damage
from voxmim.training.pretrain import pretraining_cases
from voxmim.training.run import RECIPE, Run

REPORT = "report.html"
_SHOWN = 2  # cases with pictures
_POINTS = 400  # of a loss curve; more could not be told apart
_SMOOTH = 25  # steps of which a loss curve shows the mean


def pretrain_page(run: Run) -> None:
    """Write a pre-training's ``report.html`` and ``figures/``; the same fixed cases each time."""
    recipe, rows = run.recipe(), run.metrics()
    store = store_of(run)
    training = recipe.pretrain
    validated = [row for row in rows if "val_loss" in row]
    pretext, settings = recipe.pretext_class, recipe.pretext_settings
    learned = pretext.summary(settings, recipe.mask)
    lead = [f"An encoder {learned}. It was trained for {training.steps} steps. No label was read."]
    if validated:
        lead.append(pretext.progress(settings, validated[0], validated[-1]))
        lead.append(pretext.complaint(settings, validated[-1], training.steps))
    title, axis = pretext.loss_name(settings)
    facts = run_facts(run, training, store)
    if run.about.get("init"):
        lead.insert(0, f"It started from the encoder {run.about['init']}.")
        lead += run.about["warnings"]
        facts.append(("weights that moved", run.about["transfer"]))
    page = Page(
        title=f"Pre-training: {run.path.name}",
        lead=lead,
        facts=facts,
        plots=[Plot(title, "optimiser step", axis, pretraining_curves(rows, pretext.guess))],
        pictures=[] if store is None else reconstruction_pictures(run, store),
        settings=recipe_to_yaml(recipe),
        commands=[repeat_command(run)],
    )
    write_report(run, page)


def pretraining_curves(rows: Sequence[Mapping[str, float]], guess: str) -> list[Curve]:
    """The loss on training crops and, where there are any, on validation crops."""
    curves = [loss_curve(rows, "training crops")]
    validated = [row for row in rows if "val_loss" in row]
    if validated:
        curves.append(curve("validation crops, always the same", validated, "val_loss"))
    if validated and "val_guess" in validated[0]:
        curves.append(curve(guess, validated, "val_guess"))
    return curves


def finetune_page(run: Run) -> None:
    """Write a fine-tuning's ``report.html`` and ``figures/``, with the results of its evaluations if there are any."""
    recipe, rows = run.recipe(), run.metrics()
    store = store_of(run)
    validated = [row for row in rows if "val_dice" in row]
    start = "from scratch" if run.about.get("init") is None else f"from the encoder {Path(run.about['init'])}"
    lead = [
        f"A segmentor was trained {start} on {len(run.about['cases'])} labelled cases, "
        f"for {recipe.finetune.steps} steps."
    ]
    if validated:
        best = best_row(run, validated, "val_dice")
        lead.append(
            f"Its best mean Dice on validation cases was {best['val_dice']:.3f}, at step {int(best['step'])}; "
            "the weights of that step were kept."
        )
    plots = [Plot("Loss", "optimiser step", run.about.get("loss", "loss"), [loss_curve(rows, "training crops")])]
    if validated:
        plots.insert(0, Plot("Dice on validation cases", "optimiser step", "Dice", dice_curves(validated)))
    lead += run.about.get("warnings", [])
    moved = run.about["transfer"] or "none: trained from scratch"
    results = [json.loads(file.read_text()) for file in sorted(run.path.glob("evaluation-*.json"))]
    pictures = [] if store is None else segmentation_pictures({"segmentor": run}, store)
    page = Page(
        title=f"Fine-tuning: {run.path.name}",
        lead=lead,
        facts=[*run_facts(run, recipe.finetune, store), ("weights that moved", moved)],
        plots=plots,
        tables=[result_table(result) for result in results],
        pictures=pictures,
        settings=recipe_to_yaml(recipe),
        commands=[repeat_command(run)]
        + [shlex.join(["voxmim", "evaluate", str(run.path), r["data"], "--split", r["split"]]) for r in results],
    )
    write_report(run, page)


def best_row(run: Run, validated: Sequence[dict[str, float]], score: str) -> dict[str, float]:
    """The validated row of the step whose weights were kept."""
    step = run.about.get("best_step")
    return max(validated, key=lambda row: (row["step"] == step, row.get(score, 0.0)))


def run_facts(run: Run, training: Training, store: Store | None) -> list[tuple[str, str]]:
    """What was run on what, as (name, value)."""
    recipe, rows = run.recipe(), run.metrics()
    facts = [("run", str(run.path)), ("store", run.about["store"])]
    if store is not None:
        preparation = store.preparation
        spacing = sizes_in_words(preparation.spacing)
        facts += [
            ("scans", f"{store.name}: {len(store.cases)} of {preparation.intensity.upper()}, at {spacing} mm"),
            ("data hash", store.digest()),
        ]
        if len(preparation.channels) > 1:
            how = {"all": "", "drawn": "; of each crop a part was shown", "one": "; of each crop one was shown"}
            shown = how[recipe.channels] if run.kind == "pretrain" else ""
            facts.append(("channels", f"{', '.join(preparation.channels)}{shown}"))
    cases = run.about["cases"]
    samples = recipe.pretext_class.samples if run.kind == "pretrain" else "crops"
    crop = sizes_in_words(recipe.crop or ())
    facts += [
        ("trained on", f"{cases if isinstance(cases, int) else len(cases)} cases"),
        ("crop and patch", f"{crop} voxels, in patches of {sizes_in_words(recipe.encoder_settings.patch)}"),
        ("encoder", recipe.encoder_settings.summary()),
        ("steps", f"{training.steps} of {training.batch} {samples}, peak rate {training.lr:g}"),
        ("seed, precision", f"{recipe.seed}, {recipe.precision}"),
    ]
    if recipe.nodes * recipe.devices > 1:
        facts.append(("processes", f"{recipe.devices} on each of {recipe.nodes} node(s)"))
    if training.ema:
        facts.append(("weights", f"averaged over the steps, {training.ema:g} of the average staying at each"))
    if training.freeze:
        facts.append(("encoder kept still", f"for {training.freeze:.0%} of the steps"))
    if rows:
        facts.append(("time", f"{rows[-1]['seconds'] / 60:.1f} minutes"))
    facts.append(("versions", ", ".join(f"{name} {version(name)}" for name in ("voxmim", "torch", "monai"))))
    return facts


def repeat_command(run: Run) -> str:
    """The command that does the same training again, following the run's resolved recipe."""
    command = ["voxmim", run.kind, run.about["store"], "OUT", "--recipe", str(run.path / RECIPE)]
    if run.kind == "finetune":
        command += ["--labels", str(len(run.about["cases"]))]
        if "classes" in run.about:
            command += ["--task", "classification", "--classes", run.about["classes"]]
    if run.about.get("init"):  # whose patch and window would otherwise take the place of the recipe's
        recipe = run.recipe()
        command += ["--init", run.about["init"], "--set", f"window={list(recipe.window)}"]
        if has_patch_setting(recipe.encoder_settings):
            command += ["--set", f"{recipe.encoder}.patch={list(recipe.encoder_settings.patch)}"]
    return shlex.join(command)


def curve(name: str, rows: Sequence[Mapping[str, float]], column: str) -> Curve:
    """One column of the metrics against the steps."""
    return Curve(name, [int(row["step"]) for row in rows], [row[column] for row in rows])


def loss_curve(rows: Sequence[Mapping[str, float]], name: str) -> Curve:
    """The training loss, smoothed by a running mean and thinned to what can be told apart."""
    losses = np.array([row["loss"] for row in rows])
    width = min(_SMOOTH, max(1, len(losses) // 10))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    steps = [int(row["step"]) for row in rows[width - 1 :]]
    every = max(1, len(steps) // _POINTS)
    return Curve(f"{name}, mean of {width} steps", steps[::every], smooth[::every].tolist())


def dice_curves(validated: list[dict[str, float]]) -> list[Curve]:
    """Mean Dice and that of each label or region, against the steps."""
    shown = Segmentation.curves(dict.fromkeys(column for row in validated for column in row))
    return [curve(name, [row for row in validated if column in row], column) for column, name in shown.items()]


def result_table(result: Mapping[str, Any], title: str | None = None) -> Table:
    """An evaluation's figures per label or region, the position-only prior beside them, the convention below."""
    (found,) = result_tables(result)
    return Table(title or found.title, found.header, found.rows, found.note)


def figure(value: float | None, digits: int = 3) -> str:
    """A number as text, or a dash where nothing was counted."""
    return "–" if value is None else f"{value:.{digits}f}"


def reconstruction_pictures(run: Run, store: Store) -> list[Picture]:
    """Original, masked, reconstructed of the first validation cases, masks fixed by the run's seed; none of SimCLR."""
    recipe = run.recipe()
    if not recipe.pretext_class.reconstructs:
        return []
    reconstructor = Reconstructor.load(run.path)
    cases, held = pretraining_cases(store, recipe.seed)
    pictures = []
    shown = sorted(held or cases, key=lambda case: len(case.missing))  # those that lack nothing first
    for _, case, stored in islice(Damage().readable(shown, lambda case: store.image(case.name)), _SHOWN):
        seen = window(stored, store.preparation.intensity, recipe.window)
        found = reconstructor.reconstruct(seen, recipe.seed)
        pictures.append(
            Picture(
                f"Reconstruction of {case.name}",
                picture(found, store.preparation.spacing),
                f"{recipe.mask.ratio:.0%} of the patches were hidden; only those are predicted.",
                [("hidden", HIDDEN_COLOUR)],
            )
        )
    return pictures


def segmentation_pictures(runs: Mapping[str, Run], store: Store, split: str = "val") -> list[Picture]:
    """Scan, reference and each run's segmentation of the first cases of a split, in the store's spacing."""
    labelled = store.labelled(split) or store.labelled("train")
    segmentors = {name: Segmentor.load(run.path) for name, run in runs.items()}
    legend = [(label, label_colour(value)) for value, label in store.labels.items()]
    bounds = next(iter(runs.values())).recipe().window
    pictures = []

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        return store.image(case.name), store.label_map(case.name)

    for _, case, (stored, reference) in islice(Damage().readable(labelled, read), _SHOWN):
        columns: list[tuple[str, np.ndarray | None]] = [("scan", None), ("reference", reference)]
        for name, segmentor in segmentors.items():
            columns.append((name, segmentor.prepared_label_map(_prepared(store, case, stored))))
        seen = window(stored, store.preparation.intensity, bounds)
        at = middle_of(reference, case.shape)
        png = segmentation_picture(display_range(seen[0]), columns, store.preparation.spacing, at)
        caption = f"A {case.split} case, through the middle of its labels."
        pictures.append(Picture(f"Segmentation of {case.name}", png, caption, legend))
    return pictures


def _prepared(store: Store, case: Case, stored: np.ndarray) -> PreparedScan:
    """A case of the store as a prepared scan whose own grid is the store's."""
    affine = np.diag([*store.preparation.spacing, 1.0])
    grid = Grid(case.shape, affine)
    return PreparedScan(stored, grid, grid, (), Path(case.image[0]))


def store_of(run: Run) -> Store | None:
    """The run's store, or None where it is gone: a report without pictures is better than none."""
    try:
        return Store(run.about["store"])
    except StoreError:
        return None


def write_report(run: Run, page: Page) -> None:
    """Write a run's page, and its pictures beside it."""
    for index, shown in enumerate(page.pictures):
        with atomic_write(
            run.path / "figures" / f"{index + 1:02d}-{shown.title.replace(' ', '-').replace('/', '-')}.png"
        ) as file:
            file.write_bytes(shown.png)
    write_page(run.path / REPORT, page)

"""The whole journey in one go: prepare, pre-train, fine-tune with and without, evaluate, predict, report.

Both arms see the same few labelled cases for the same number of steps. Each is trained at every rate of a small grid,
and the rate is chosen on validation cases; test cases are looked at once, at the end.
"""

from __future__ import annotations

import json
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from voxmim.errors import RecipeError, RunError, StoreError
from voxmim.files import write_text
from voxmim.images.geometry import Spacing
from voxmim.phantoms.cohort import write_cohort
from voxmim.recipe import load_recipe, recipe_to_yaml
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Plot
from voxmim.report.reconstruct import reconstruct
from voxmim.report.run_pages import (
    curve,
    figure,
    finetune_page,
    pretrain_page,
    pretraining_curves,
    reconstruction_pictures,
    run_facts,
    segmentation_pictures,
)
from voxmim.settings import Recipe
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.studies.tables import difference_cell
from voxmim.tasks.intervals import mean_interval
from voxmim.tasks.metrics import METRICS, cells, headings
from voxmim.tasks.segmentation.evaluate import evaluate, labelled_cases, write_json
from voxmim.tasks.segmentation.predict import predict
from voxmim.text import encoder_in_words, loss_in_words, task_in_words
from voxmim.training.finetune import case_column, finetune
from voxmim.training.health import complaint
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.training.setup import refuse_unresolved

PHANTOMS = 48
PHANTOM_SPACING = (7.5, 7.5, 7.5)  # mm; coarse, so that a small crop shows an organ with its neighbours
LABELS = "0.1"
ARMS = {"scratch": "from scratch", "pretrained": "pre-trained"}


@dataclass
class Journey:
    """What the steps of the demo leave to each other.

    Attributes:
        out: the folder for everything.
        recipe: the settings of all trainings.
        seconds: how long each step took.
        commands: each step's own command.
        console: for the lines between the progress bars.
    """

    out: Path
    recipe: Recipe
    seconds: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(highlight=False))

    def step(self, name: str, command: list[str | Path], act: Callable[[], Any]) -> Any:
        """Print a step's own command, do it, and note how long it took."""
        text = shlex.join(["voxmim", *map(str, command)])
        self.commands.append(text)
        self.console.print(f"\n$ {text}", style="bold", markup=False, soft_wrap=True)
        began = time.monotonic()
        result = act()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 1)
        return result


def demo(
    data: Path | str | None = None,
    out: Path | str = "voxmim-demo",
    seed: int = 0,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    spacing: Spacing | None = None,
) -> dict[str, Any]:
    """Run the whole journey and write ``results.json`` and ``report.html``.

    Args:
        data: folder in the layout of the Medical Segmentation Decathlon; None makes phantoms.
        out: folder for everything, new or empty.
        seed: of everything random.
        recipe: packaged recipe or YAML file; None takes ``demo`` for phantoms and ``tiny`` for data.
        settings: what differs from the recipe.
        spacing: voxel size in mm that scans are prepared at; None takes the median of the data.

    Returns:
        the content of ``results.json``, with ``seen``: what was seen, in plain words.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(f"{out}: there is something here already; name another folder with --out, or delete it.")
    chosen = load_recipe(recipe or ("tiny" if data else "demo"), {"seed": seed, **(settings or {})})
    if chosen.nodes * chosen.devices > 1:
        raise RecipeError("a demo trains in one process; leave out nodes and devices, or take its commands one by one.")
    journey = Journey(out, chosen)
    recipe_file = out / "recipe.yaml"
    write_text(recipe_file, recipe_to_yaml(chosen))

    if data is None:
        source, spacing = out / "phantoms", spacing or PHANTOM_SPACING
        command: list[str | Path] = ["phantom", source, "--cases", str(PHANTOMS), "--seed", str(seed)]
        journey.step("phantom", command, lambda: write_cohort(source, PHANTOMS, seed))
    else:
        source = Path(data)
    store_path = out / "store"
    command = ["prepare", source, store_path, "--seed", str(seed)]
    if spacing is not None:
        command += ["--spacing", *(f"{size:g}" for size in spacing)]
    journey.step("prepare", command, lambda: prepare(source, store_path, spacing, seed=seed))
    store = Store(store_path)
    refuse_unresolved(store)
    for split in ("train", "val", "test"):
        if not store.labelled(split):
            raise StoreError(
                f"{source}: there is no labelled case in the split '{split}', which the demo needs; add one."
            )

    encoder = journey.step(
        "pretrain",
        ["pretrain", store_path, out / "pretrain", "--recipe", recipe_file],
        lambda: _pretrained(store, out / "pretrain", chosen),
    )
    runs = {arm: _best_rate(journey, store, arm, encoder.path if arm == "pretrained" else None) for arm in ARMS}
    results = {arm: _evaluated(journey, runs[arm], store_path) for arm in ARMS}
    shown = list(labelled_cases(store_path, "test")[0][0][1])
    journey.step(
        "predict",
        ["predict", runs["pretrained"].path, *shown, "--out", out / "predictions"],
        lambda: predict(runs["pretrained"].path, shown, out / "predictions"),
    )
    if chosen.pretext != "simclr":
        journey.step(
            "reconstruct",
            ["reconstruct", encoder.path, *shown, "--out", out / "reconstructions"],
            lambda: reconstruct(encoder.path, shown, out / "reconstructions"),
        )

    summary = _summary(journey, source, runs, results)
    write_text(out / "results.json", json.dumps(summary, indent=1))
    write_page(out / "report.html", _page(journey, store, encoder, runs, results, summary))
    return summary


def _pretrained(store: Store, path: Path, recipe: Recipe) -> Run:
    run = pretrain(store, path, recipe)
    pretrain_page(run)
    return run


def _best_rate(journey: Journey, store: Store, arm: str, init: Path | None) -> Run:
    """Fine-tune one arm at each rate of the grid; the run with the highest validation Dice."""
    runs = []
    for rate in journey.recipe.rates:
        path = journey.out / f"{arm}-lr{rate:g}"
        recipe = replace(journey.recipe, scratch_lr=None, finetune=replace(journey.recipe.finetune, lr=rate))
        command: list[str | Path] = ["finetune", store.path, path, "--recipe", journey.out / "recipe.yaml"]
        command += ["--labels", LABELS, "--lr", f"{rate:g}"]
        if init is not None:
            command += ["--init", init]
        runs.append(journey.step(arm, command, partial(_finetuned, store, path, recipe, init)))
    return max(runs, key=_best_dice)


def _finetuned(store: Store, path: Path, recipe: Recipe, init: Path | None) -> Run:
    run, _ = finetune(store, path, recipe, init, LABELS)
    finetune_page(run)
    return run


def _best_dice(run: Run) -> float:
    return max(row["val_dice"] for row in run.metrics() if "val_dice" in row)


def _evaluated(journey: Journey, run: Run, store: Path) -> dict[str, Any]:
    result: dict[str, Any] = journey.step(
        "evaluate", ["evaluate", run.path, store, "--split", "test"], lambda: evaluate(run.path, store)
    )
    write_json(run.path / "evaluation-test.json", result)
    finetune_page(run)
    return result


def _summary(
    journey: Journey, source: Path, runs: Mapping[str, Run], results: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of ``results.json``."""
    prior = results["scratch"]["prior"]["mean"]
    rows = {arm: {int(row["step"]): row for row in run.metrics() if "val_dice" in row} for arm, run in runs.items()}
    arms: dict[str, Any] = {"prior": {"dice": prior["dice"], "ci95": prior["ci95"]}}
    for arm, run in runs.items():
        mean = results[arm]["mean"]
        arms[arm] = {
            **{name: mean[name] for name in (*METRICS, "ci95")},
            "lr": run.recipe().finetune.lr,
            "curve": [[step, row["val_dice"]] for step, row in rows[arm].items()],
        }
    paired = [_paired(step, row, rows["pretrained"][step]) for step, row in rows["scratch"].items()]
    scale = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "data": str(source),
        "arms": arms,
        "paired": paired,
        "cases": len(results["scratch"]["cases"]),
        "runs": {arm: str(run.path) for arm, run in runs.items()},
        "seconds": journey.seconds,
        "peak_memory_gib": round(peak * scale / 2**30, 2),
        "seen": _seen(arms, paired, results),
    }


def _paired(step: int, scratch: Mapping[str, float], pretrained: Mapping[str, float]) -> dict[str, Any]:
    """How the pre-trained arm compares at one step, over the validation cases."""
    cases = [key for key in scratch if key.startswith(case_column(""))]
    differences = np.array([[pretrained[key] - scratch[key] for key in cases]])
    return {"step": step, "difference": float(differences.mean()), "ci95": list(mean_interval(differences))}


def _seen(arms: Mapping[str, Any], paired: list[dict[str, Any]], results: Mapping[str, dict[str, Any]]) -> str:
    """What was seen, in plain words, the same whether it pleases or not."""
    scratch, pretrained = ([case["mean_dice"] for case in results[arm]["cases"]] for arm in ARMS)
    pairs = [(a, b) for a, b in zip(scratch, pretrained, strict=True) if a is not None and b is not None]
    words = difference_cell(np.array([[b - a for a, b in pairs]]))
    text = f"Dice on test cases, pre-trained minus from scratch: {words}."
    reached = _steps_to(arms["pretrained"]["curve"], max(dice for _, dice in arms["scratch"]["curve"]))
    best = max(arms["scratch"]["curve"], key=lambda point: point[1])
    if reached is None:
        text += f" The pre-trained one did not reach the best validation Dice from scratch ({best[1]:.3f})."
    else:
        text += (
            f" On validation cases the pre-trained one reached the best Dice from scratch ({best[1]:.3f}, "
            f"step {best[0]}) at step {reached}."
        )
    ahead = [str(row["step"]) for row in paired if row["ci95"][0] > 0]
    behind = [str(row["step"]) for row in paired if row["ci95"][1] < 0]
    for word, steps in (("ahead", ahead), ("behind", behind)):
        if steps:
            text += f" It was {word}, by a 95 % interval that leaves out zero, at step {', '.join(steps)}."
    if not ahead and not behind:
        text += " At none of the steps validated was a difference seen."
    return text + f" Position alone, without a look at the image, scores {arms['prior']['dice']:.3f}."


def _paired_row(at: Mapping[str, Any], arms: Mapping[str, Any]) -> list[str]:
    low, high = at["ci95"]
    dice = [figure(dict(arms[arm]["curve"])[at["step"]]) for arm in ARMS]
    return [str(at["step"]), *dice, f"{at['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}"]


def _steps_to(points: list[list[float]], dice: float) -> int | None:
    return next((int(step) for step, found in points if found >= dice), None)


def _page(
    journey: Journey,
    store: Store,
    encoder: Run,
    runs: Mapping[str, Run],
    results: Mapping[str, dict[str, Any]],
    summary: Mapping[str, Any],
) -> Page:
    rows = [["position-only prior", *cells(results["scratch"]["prior"]["mean"]), "–"]]
    for arm, title in ARMS.items():
        rows.append([title, *cells(results[arm]["mean"]), f"{summary['arms'][arm]['lr']:g}"])
    header = ["arm", *headings(results["scratch"]["tolerance_mm"]), "rate"]
    per_label = [
        [name, *(figure(results[arm]["labels"][name]["dice"]) for arm in ARMS)] for name in results["scratch"]["labels"]
    ]
    metrics = {arm: run.metrics() for arm, run in runs.items()}
    validated = {arm: [row for row in rows_ if "val_dice" in row] for arm, rows_ in metrics.items()}
    title, axis = loss_in_words(journey.recipe)
    pictures: list[Picture] = reconstruction_pictures(encoder, store)
    pictures += segmentation_pictures({ARMS[arm]: run for arm, run in runs.items()}, store, "test")
    return Page(
        title=f"voxmim demo: {store.name}",
        lead=[
            f"An encoder ({encoder_in_words(journey.recipe)}) {task_in_words(journey.recipe)}. No label was read. Then "
            f"a segmentor was trained on {len(runs['scratch'].about['cases'])} labelled cases twice, from scratch and "
            "from that encoder, for the same number of steps, each at the learning rate that did best on validation "
            "cases.",
            summary["seen"],
            *(complaint(journey.recipe, row) for row in encoder.metrics()[-1:] if "val_loss" in row),
        ],
        facts=[
            *run_facts(encoder, journey.recipe.pretrain, store)[1:],
            ("peak memory", f"{summary['peak_memory_gib']} GiB"),
            ("time by step", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in journey.seconds.items())),
        ],
        tables=[
            Table(f"Results on {summary['cases']} test cases", header, rows, results["scratch"]["convention"]),
            Table(
                "Dice on validation cases, step by step",
                ["step", *ARMS.values(), "difference", "95 % interval"],
                [_paired_row(at, summary["arms"]) for at in summary["paired"]],
                "Paired over the same validation cases; both arms at their own rate.",
            ),
            Table("Dice per label", ["label", *ARMS.values()], per_label),
        ],
        plots=[
            Plot(
                "Dice on validation cases",
                "optimiser step",
                "mean Dice",
                [curve(ARMS[arm], validated[arm], "val_dice") for arm in ARMS],
                "Both arms: the same labelled cases, the same steps.",
            ),
            Plot(
                f"Pre-training: {title[0].lower()}{title[1:]}",
                "optimiser step",
                axis,
                pretraining_curves(encoder.metrics()),
            ),
        ],
        pictures=pictures,
        settings=recipe_to_yaml(journey.recipe),
        commands=journey.commands,
    )

"""What a study leaves: a page in HTML and in Markdown, every raw result as CSV, and all of it as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxmim.files import write_text
from voxmim.recipe import recipe_to_yaml
from voxmim.report.machine import machine
from voxmim.report.markdown import write_markdown
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Chart
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.trial import Trial
from voxmim.tasks.metrics import METRICS
from voxmim.text import encoder_in_words, pieces_in_words, sizes_in_words
from voxmim.training.finetune import case_column, labelled_cases
from voxmim.training.run import Run

COLUMNS = (
    "trial",
    "kind",
    "group",
    "arm",
    "seed",
    "rate",
    "chosen",
    "split",
    "step",
    "case",
    "label",
    "metric",
    "value",
)


@dataclass
class Shown:
    """What a study shows of its results, in the order of the page."""

    lead: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: Sequence[Chart] = ()
    pictures: list[Picture] = field(default_factory=list)


def write_study(
    folder: Path, name: str, title: str, comparison: Comparison, shown: Shown, command: str, choices: Sequence[str]
) -> dict[str, Any]:
    """Write ``report.html``, ``page.md`` with its pictures, ``results.csv`` and ``study.json``.

    Args:
        folder: the study's own.
        name: of the study.
        title: of the page.
        comparison: the trials and what came of them.
        shown: tables, plots, pictures and words of this study.
        command: the study's own command line.
        choices: what was decided on the way, one sentence each.

    Returns:
        the content of ``study.json``.
    """
    holes = _holes(comparison)
    tables = [*shown.tables, _choice_table(comparison), *([holes] if holes else [])]
    page = Page(
        title=title,
        lead=[
            *shown.lead,
            *choices,
            *([f"{len(holes.rows)} trials are missing; see the last table."] if holes else []),
        ],
        facts=_facts(comparison),
        tables=tables,
        plots=shown.plots,
        pictures=shown.pictures,
        settings=recipe_to_yaml(comparison.arms[0].recipe),
        commands=[command, *(trial.command(comparison.out) for trial in comparison.trials.values())],
    )
    told = {
        "study": name,
        "command": command,
        "choices": list(choices),
        "seen": shown.lead,
        "facts": dict(page.facts),
        "seeds": list(comparison.seeds),
        "arms": [_arm(comparison, arm) for arm in comparison.arms],
        "tables": [asdict(table) for table in tables],
        "trials": [
            {**asdict(comparison.notes[key]), "command": trial.command(comparison.out)}
            for key, trial in comparison.trials.items()
        ],
    }
    write_text(folder / "results.csv", _csv(comparison))
    write_markdown(
        folder / "page.md",
        page,
        [("results.csv", "every raw result, one number a row"), ("study.json", "plan, choices, results, environment")],
    )
    write_page(folder / "report.html", page)
    write_text(folder / "study.json", json.dumps(told, indent=1))
    return told


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    arm, facts = comparison.arms[0], []
    stores = {path: None for arm in comparison.arms for path, _, _ in arm.trainings}
    for path in stores:
        store = Store(path)
        spacing = sizes_in_words(store.preparation.spacing)
        splits = ", ".join(f"{len(store.in_split(split))} {split}" for split in ("train", "unlabelled", "val", "test"))
        what = f"{store.preparation.intensity.upper()} at {spacing} mm: {splits}; data hash {store.digest()}"
        facts.append((f"store {path}", f"{store.name}, {what}"))
    training, run = arm.recipe.finetune, comparison.run(arm, comparison.seeds[0])
    facts += [
        ("encoder", f"{encoder_in_words(arm.recipe)}, {pieces_in_words(arm.recipe)}"),
        ("crop", sizes_in_words(arm.recipe.crop or ())),
        ("fine-tuning", f"{training.steps} steps of {training.batch} crops"),
        ("labelled cases", ", ".join(dict.fromkeys(_labels(arm) for arm in comparison.arms))),
        ("rates tried", ", ".join(f"{rate:g}" for rate in arm.recipe.rates)),
        ("seeds", f"{', '.join(map(str, comparison.seeds))}; each draws its own labelled cases, crops and weights"),
        ("precision", (run.recipe() if run else arm.recipe).precision),
        ("machine", "; ".join(dict.fromkeys(n.machine for n in comparison.notes.values() if n.machine)) or machine()),
        ("versions", ", ".join(f"{name} {version(name)}" for name in ("voxmim", "torch", "monai", "numpy"))),
        ("time of all trials", f"{sum(note.seconds for note in comparison.notes.values()) / 3600:.2f} hours"),
    ]
    return facts


def _labels(arm: Arm) -> str:
    """How many labelled cases an arm learns from, of how many."""
    few, every = (len(labelled_cases(Store(arm.store), labels, 0)) for labels in (arm.labels, None))
    return f"{few} of {every}"


def _arm(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    """An arm, the rates tried and the one chosen, and its mean Dice on validation and test cases by seed."""
    return {
        "name": arm.name,
        "group": arm.group,
        "labels": arm.labels,
        "rate": comparison.rate(arm),
        "tried": {f"{rate:g}": dice for rate, dice in comparison.tried(arm).items()},
        "validation": {seed: max(row["val_dice"] for row in rows) for seed, rows in comparison.curves(arm).items()},
        "test": {seed: result["mean"] for seed, result in comparison.results(arm).items()},
    }


def _choice_table(comparison: Comparison) -> Table:
    """The best validation Dice of each arm at each rate."""
    rates = list(dict.fromkeys(rate for arm in comparison.arms for rate in arm.recipe.rates))
    rows = []
    for arm in comparison.arms:
        tried, chosen = comparison.tried(arm), comparison.rate(arm)
        cells = [f"{tried[rate]:.3f}" if rate in tried else "–" for rate in rates]
        rows.append([arm.full_name, *cells, "–" if chosen is None else f"{chosen:g}"])
    note = (
        f"The best Dice on validation cases at each rate, with seed {comparison.seeds[0]}. The rate that did best is "
        "the arm's, with all seeds. No test case had a part in it."
    )
    return Table("The choice of the learning rates", ["arm", *(f"{rate:g}" for rate in rates), "chosen"], rows, note)


def _holes(comparison: Comparison) -> Table | None:
    notes = [note for name, note in comparison.notes.items() if note.state != "done"]
    rows = [[note.trial, note.state, note.error] for note in notes]
    note = "The same command tries them again."
    return Table("What is missing", ["trial", "what became of it", "why"], rows, note) if rows else None


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    for row in _raw(comparison):
        rows.writerow(row)
    return text.getvalue()


def _raw(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Every validated figure of every training that is done, and every score of a test case."""
    told = set()
    for arm in comparison.arms:
        chosen = comparison.rate(arm)
        for seed in comparison.seeds:
            start = arm.pretrain(seed)
            if start is not None and start.name not in told:
                told.add(start.name)
                yield from _validated(comparison, start, {"arm": arm.name, "seed": seed})
            for rate in arm.recipe.rates:
                about = {"group": arm.group, "arm": arm.name, "seed": seed, "rate": rate, "chosen": int(rate == chosen)}
                yield from _validated(comparison, arm.finetune(seed, rate), about)
        for seed, result in comparison.results(arm).items():
            assert chosen is not None
            about = {"group": arm.group, "arm": arm.name, "seed": seed, "rate": chosen, "chosen": 1}
            about |= {"trial": arm.finetune(seed, chosen).name, "kind": "evaluate", "split": result["split"]}
            for who, scored in ((arm.name, result), ("position-only prior", result["prior"])):
                for case in scored["cases"]:
                    for metric in METRICS:
                        for label, value in case.get(metric, {}).items():
                            one = {"arm": who, "case": case["case"], "label": label, "metric": metric, "value": value}
                            yield about | one


def _validated(comparison: Comparison, trial: Trial, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    run: Run | None = comparison.finished(trial)
    for row in [] if run is None else run.metrics():
        if not any(key.startswith("val_") for key in row):
            continue
        for key, value in row.items():
            one = {"trial": trial.name, "kind": trial.kind, "split": "val", "step": int(row["step"]), "value": value}
            if key.startswith(case_column("")):
                yield {**about, **one, "case": key.removeprefix(case_column("")), "metric": "dice"}
            elif key.startswith("val_dice "):
                yield {**about, **one, "label": key.removeprefix("val_dice "), "metric": "dice"}
            elif key == "loss":
                yield {**about, **one, "split": "train", "metric": "loss"}
            elif key not in ("step", "lr"):
                yield {**about, **one, "metric": key.removeprefix("val_")}

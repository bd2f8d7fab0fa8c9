"""The files of a study: the page in HTML and Markdown, raw results as CSV, and everything as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxmim.files import write_csv, write_json
from voxmim.recipe import recipe_to_yaml
from voxmim.report.machine import machine
from voxmim.report.markdown import write_markdown
from voxmim.report.page import Page, Table, write_page
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.design import Findings
from voxmim.studies.tables import PRIOR, unlearned_note
from voxmim.studies.trial import Trial
from voxmim.tasks.cases import labelled_train_cases
from voxmim.tasks.metrics import METRICS
from voxmim.tasks.segmentation.task import case_column
from voxmim.text import counted, sizes_in_words

COLUMNS = (
    "trial", "kind", "group", "arm", "seed", "lr", "chosen", "split", "step", "case", "label", "metric", "value",
)  # fmt: skip


def write_study(
    folder: Path, title: str, comparison: Comparison, findings: Findings, commands: Sequence[str]
) -> dict[str, Any]:
    """Write ``report.html``, ``page.md``, ``results.csv`` and ``study.json``, and return the content of the last.

    `commands` are the command lines that repeat the study, its own last.
    """
    lead = [*findings.lead, unlearned_note(comparison, comparison.arms)]
    tables = [*findings.tables, _lr_table(comparison)]
    if missing := [[note.trial, note.state, note.error] for note in comparison.notes.values() if note.state != "done"]:
        lead.append(f"{counted(len(missing), 'trial')} missing; see the last table.")
        again = "Run the same command to try them again."
        tables.append(Table("Missing trials", ["trial", "state", "reason"], missing, again))
    page = Page(
        title=title,
        lead=lead,
        tables=tables,
        plots=findings.plots,
        pictures=findings.pictures,
        facts=_facts(comparison),
        settings=recipe_to_yaml(comparison.arms[0].recipe),
        commands=[*commands, *(trial.command(comparison.out) for trial in comparison.trials.values())],
    )
    content = {
        "command": commands[-1],
        "found": [line for line in page.lead if line],
        "facts": dict(page.facts),
        "seeds": list(comparison.seeds),
        "arms": [_arm(comparison, arm) for arm in comparison.arms],
        "tables": [asdict(table) for table in tables],
        "trials": [
            {**asdict(comparison.notes[key]), "command": trial.command(comparison.out)}
            for key, trial in comparison.trials.items()
        ],
    }
    write_csv(folder / "results.csv", raw_rows(comparison), COLUMNS)
    links = [("results.csv", "every raw result, one number per row"), ("study.json", "arms, results, environment")]
    write_markdown(folder / "page.md", page, links)
    write_page(folder / "report.html", page)
    write_json(folder / "study.json", content)
    return content


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    arm, facts = comparison.arms[0], []
    stores = {path: None for arm in comparison.arms for path, _, _ in arm.trainings}
    for path in stores:
        store = Store(path)
        spacing = sizes_in_words(store.preparation.spacing)
        splits = ", ".join(f"{len(store.in_split(split))} {split}" for split in ("train", "unlabelled", "val", "test"))
        what = f"{store.preparation.intensity.upper()} at {spacing} mm: {splits}; data hash {store.digest()}"
        facts.append((f"store {path}", f"{store.name}, {what}"))
    training, run, encoder = arm.recipe.finetune, comparison.run(arm, comparison.seeds[0]), arm.recipe.encoder_settings
    facts += [
        ("encoder", f"{encoder.summary()}, patch {sizes_in_words(encoder.patch)}"),
        ("crop", sizes_in_words(arm.recipe.crop or ())),
        ("fine-tuning", f"{counted(training.steps, 'step')} of {counted(training.batch, 'crop')}"),
        ("labelled cases", ", ".join(dict.fromkeys(_labels(arm) for arm in comparison.arms))),
        ("learning rates tried", ", ".join(f"{lr:g}" for lr in arm.recipe.lrs)),
        ("seeds", f"{', '.join(map(str, comparison.seeds))}; each draws its own labelled cases, crops and weights"),
        ("precision", (run.recipe() if run else arm.recipe).precision),
        ("machine", "; ".join(dict.fromkeys(n.machine for n in comparison.notes.values() if n.machine)) or machine()),
        ("versions", ", ".join(f"{name} {version(name)}" for name in ("voxmim", "torch", "monai", "numpy"))),
        ("time of all trials", f"{sum(note.seconds for note in comparison.notes.values()) / 3600:.2f} hours"),
    ]
    return facts


def _labels(arm: Arm) -> str:
    """The number of labelled cases that an arm uses, such as ``6 of 60``."""
    used, available = (len(labelled_train_cases(Store(arm.store), labels, 0)) for labels in (arm.labels, None))
    return f"{used} of {available}"


def _arm(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    runs = {seed: run for seed in comparison.seeds if (run := comparison.run(arm, seed))}
    starts = {seed: start for seed in comparison.seeds if (start := comparison.finished(arm.pretrain(seed)))}
    return {
        "name": arm.name,
        "group": arm.group,
        "labels": arm.labels,
        "lr": comparison.lr(arm),
        "tried": {f"{lr:g}": dice for lr, dice in comparison.tried(arm).items()},
        "runs": {seed: str(run.path) for seed, run in runs.items()},
        "pretrainings": {seed: str(start.path) for seed, start in starts.items()},
        "validation": {seed: max(row["val_dice"] for row in rows) for seed, rows in comparison.curves(arm).items()},
        "test": {seed: result["mean"] for seed, result in comparison.results(arm).items()},
    }


def _lr_table(comparison: Comparison) -> Table:
    lrs = list(dict.fromkeys(lr for arm in comparison.arms for lr in arm.recipe.lrs))
    rows = []
    for arm in comparison.arms:
        tried, chosen = comparison.tried(arm), comparison.lr(arm)
        cells = [f"{tried[lr]:.3f}" if lr in tried else "–" for lr in lrs]
        rows.append([arm.full_name, *cells, "–" if chosen is None else f"{chosen:g}"])
    note = (
        f"The best Dice on validation cases with seed {comparison.seeds[0]}. Each arm has the learning rate that did "
        "best, with all seeds. No test case was used."
    )
    return Table("Choice of the learning rates", ["arm", *(f"{lr:g}" for lr in lrs), "chosen"], rows, note)


def raw_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """The rows of results.csv: all validations of finished trainings, and all scores of test cases."""
    seen = set()
    for arm in comparison.arms:
        chosen = comparison.lr(arm)
        for seed in comparison.seeds:
            start = arm.pretrain(seed)
            if start is not None and start.name not in seen:
                seen.add(start.name)
                yield from _validated(comparison, start, {"arm": arm.name, "seed": seed})
            for lr in arm.recipe.lrs:
                about = {"group": arm.group, "arm": arm.name, "seed": seed, "lr": lr, "chosen": int(lr == chosen)}
                yield from _validated(comparison, arm.finetune(seed, lr), about)
        for seed, result in comparison.results(arm).items():
            trial = comparison.evaluation(arm, seed, chosen)
            assert trial is not None
            about = {"trial": trial.name, "kind": "evaluate", "group": arm.group, "seed": seed, "lr": chosen}
            about |= {"chosen": 1, "split": result["split"]}
            for who, scored in ((arm.name, result), (PRIOR, result["prior"])):
                for case in scored["cases"]:
                    for metric in METRICS:
                        for label, value in case.get(metric, {}).items():
                            score = {"case": case["case"], "label": label, "metric": metric, "value": value}
                            yield {**about, "arm": who, **score}


def _validated(comparison: Comparison, trial: Trial, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in comparison.rows(trial):
        for key, value in row.items():
            entry = {"trial": trial.name, "kind": trial.kind, "split": "val", "step": int(row["step"]), "value": value}
            if key.startswith(case_column("")):
                yield {**about, **entry, "case": key.removeprefix(case_column("")), "metric": "dice"}
            elif key.startswith("val_dice "):
                yield {**about, **entry, "label": key.removeprefix("val_dice "), "metric": "dice"}
            elif key == "loss":
                yield {**about, **entry, "split": "train", "metric": "loss"}
            elif key not in ("step", "lr"):
                yield {**about, **entry, "metric": key.removeprefix("val_")}

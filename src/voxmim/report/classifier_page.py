"""The report of a classification: what was run on what, its curves, its results with the confusions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmim.recipe import recipe_to_yaml
from voxmim.report.page import Page, Table
from voxmim.report.plots import Plot
from voxmim.report.run_pages import best_row, curve, loss_curve, repeat_command, run_facts, store_of, write_report
from voxmim.tasks.classification.evaluate import result_tables
from voxmim.tasks.classification.task import Classification
from voxmim.training.run import Run


def classify_page(run: Run) -> None:
    """Write a classification's ``report.html``, with the results of its evaluations if there are any."""
    recipe, rows = run.recipe(), run.metrics()
    validated = [row for row in rows if "val_score" in row]
    ranked = [row for row in validated if "val_auroc" in row]
    what = "A linear probe" if recipe.finetune.freeze == 1 else "A classifier of whole scans"
    start = "from scratch" if run.about["init"] is None else f"from the encoder {Path(run.about['init'])}"
    lead = [f"{what} was trained {start} on {len(run.about['cases'])} cases, for {recipe.finetune.steps} steps."]
    if recipe.finetune.freeze == 1:
        lead[0] += " The encoder was kept as it was; only the linear layer on its averaged features learned."
    if ranked:
        best = best_row(run, ranked, "val_score")
        lead.append(
            f"Its best AUROC on validation cases was {best['val_auroc']:.3f}, at step {int(best['step'])}, with a "
            f"balanced accuracy of {best['val_balanced_accuracy']:.3f}; the weights of that step were kept."
        )
    losses = [loss_curve(rows, "training crops")]
    plots = [Plot("Loss", "optimiser step", "cross-entropy", losses)]
    if validated:
        losses.append(curve("whole validation scans", validated, "val_loss"))
    if ranked:
        told = [curve("AUROC", ranked, "val_auroc"), curve("balanced accuracy", ranked, "val_balanced_accuracy")]
        plots.insert(0, Plot("Whole validation scans", "optimiser step", "share", told))
    facts = [
        *run_facts(run, recipe.finetune, store_of(run)),
        ("weights that moved", run.about["transfer"] or "none: trained from scratch"),
        *Classification.facts(run.about),
    ]
    results = [json.loads(file.read_text()) for file in sorted(run.path.glob("evaluation-*.json"))]
    page = Page(
        title=f"Classification: {run.path.name}",
        lead=lead,
        facts=facts,
        plots=plots,
        tables=[Table(*found) for result in results for found in result_tables(result)],
        settings=recipe_to_yaml(recipe),
        commands=[repeat_command(run), *map(_evaluate_command, results)],
    )
    write_report(run, page)


def _evaluate_command(result: Mapping[str, Any]) -> str:
    command = ["voxmim", "evaluate", result["run"], result["data"], "--split", result["split"]]
    return shlex.join(command + (["--classes", result["table"]] if "table" in result else []))

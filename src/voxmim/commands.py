"""Output and exit status of each command: one function per command, called with what the api's function returns."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxmim.console import CONSOLE, done, plain, table
from voxmim.text import counted, sizes_in_words

if TYPE_CHECKING:
    from voxmim.doctor.inspect import Inspection
    from voxmim.export.embed import Embeddings
    from voxmim.export.exported import Exported
    from voxmim.recipe import Recipe
    from voxmim.store.prepare import PrepareResult
    from voxmim.tasks.given import Written
    from voxmim.training.plan import Plan
    from voxmim.weights.load import LoadReport

Given = Mapping[str, Any]  # the arguments of the command


def demo(result: Mapping[str, Any], given: Given) -> int:
    """The scores of both arms; status 1 if trials are missing."""
    scores = result["tables"][0]
    table(scores["title"], scores["header"], scores["rows"])
    return study(result, {**given, "name": ""})


def study(result: Mapping[str, Any], given: Given) -> int:
    """The findings or the plan; status 1 if trials are missing."""
    if "plan" in result:
        table(f"The study {given['name']}", ["what", "how much"], result["plan"])
        return 0
    for sentence in result["found"]:
        CONSOLE.print(plain(sentence), soft_wrap=True)
    missing = [trial for trial in result["trials"] if trial["state"] != "done"]
    if missing:
        CONSOLE.print(f"[red]{counted(len(missing), 'trial')} missing[/red]; run the same command to try them again.")
    done(Path(given["out"]) / given["name"] / "report.html", f"the study, {counted(len(result['trials']), 'trial')}")
    return 1 if missing else 0


def phantom(result: Path, given: Given) -> None:
    done(result, f"{given['cases']} phantoms with labels")


def download(result: Path | list[list[str]], given: Given) -> None:
    if isinstance(result, list):
        table("Public data sets", ["name", "content", "licence"], result)
    else:
        done(result, "the data set, ready for 'voxmim prepare'")


def inspect(result: Inspection, given: Given) -> int:
    """The findings; status 1 if something is left out or in doubt."""
    from voxmim.report.inspection import finding_rows, verdict

    if result.findings:
        table("Findings", ["kind", "file", "reason", "action"], finding_rows(result))
    CONSOLE.print(plain(verdict(result)), soft_wrap=True)
    for file in filter(None, (given["json_file"], given["html_file"])):
        done(file, "the inspection")
    if given["list_file"]:
        done(given["list_file"], "the list, for 'voxmim prepare'; check which label map belongs to which scan")
    return 0 if result.sound else 1


def prepare(result: PrepareResult, given: Given) -> int:
    """The number of cases; status 1 if something was left out or is in doubt."""
    if result.failed:
        CONSOLE.print(f"[red]{counted(len(result.failed), 'case')} left out[/red] for the reasons above.")
    if result.unresolved:
        doubts = counted(len(result.unresolved), "finding")
        text = f"[yellow]{doubts} in doubt[/yellow]: fix or remove these files and prepare"
        CONSOLE.print(f"{text} again, or train with --accept-findings.", soft_wrap=True)
    from voxmim.sources.source import SPLITS
    from voxmim.store.format import Store

    store = Store(result.store)
    splits = Counter(case.split for case in store.cases.values())
    preparation = f"{store.preparation.intensity.upper()} at {sizes_in_words(store.preparation.spacing)} mm"
    counts = ", ".join(f"{splits[split]} {split}" for split in SPLITS if splits[split])
    CONSOLE.print(f"{preparation}: {counts}", soft_wrap=True)
    done(result.store, f"{counted(result.prepared, 'case')} prepared, {result.skipped_already} there already")
    return 0 if result.sound else 1


def verify(result: list[str], given: Given) -> int:
    """The faults; status 1 if there is any."""
    for fault in result:
        CONSOLE.print(plain(fault), style="red", soft_wrap=True)
    done(given["store"], counted(len(result), "fault"))
    return 1 if result else 0


def split(result: Mapping[str, int], given: Given) -> None:
    done(given["store"], ", ".join(f"{count} {name}" for name, count in result.items()))


def pretrain(result: Path | Plan, given: Given) -> None:
    if not isinstance(result, Path):
        return _print_plan(result)
    _print_whether_done(result)
    done(result / "encoder.safetensors", "the encoder; its report is report.html in the same folder")


def _print_plan(result: Plan) -> None:
    title = f"{counted(result.steps, 'step')} of {counted(result.crops, 'crop')}, estimated from a few of them"
    table(title, ["what", "how much"], result.rows())


def finetune(result: Path | Plan, given: Given) -> None:
    from voxmim.tasks.registry import task_of

    if not isinstance(result, Path):
        return _print_plan(result)
    _print_whether_done(result)
    kind = task_of(result).product
    done(result / f"{kind}.safetensors", f"the {kind}; its report is report.html in the same folder")


def _print_whether_done(run: Path) -> None:
    from voxmim.report.run_page import done_in_words
    from voxmim.training.run import Run

    if words := done_in_words(Run.open(run)):
        CONSOLE.print(words, soft_wrap=True)


def evaluate(result: Mapping[str, Any], given: Given) -> int:
    """The tables; status 1 if a case was left out."""
    from voxmim.tasks.registry import TASKS

    for title, header, rows, note in TASKS[result.get("task", "segmentation")].tables(result):
        table(title, header, rows)
        if note:
            CONSOLE.print(plain(note), style="dim", soft_wrap=True)
    file = Path(given["run"]) / f"evaluation-{given['split']}.json"
    written = file.is_file() and not given["ensemble"] and not given["all_components"]
    if named := given["json_file"] or given["csv_file"] or (file if written else None):
        done(named, "the result")
    return 1 if result["left_out"] else 0


def predict(result: Written, given: Given) -> int:
    """Where the predictions are; status 1 if a scan was left out."""
    if result[0].suffix != ".csv":
        done(given["out"], counted(len(result), "label map"))
    else:
        done(result[0], "the predictions")
    return 1 if result.left_out else 0


def reconstruct(result: Written, given: Given) -> int:
    """Where the pictures are; status 1 if a scan was left out."""
    done(given["out"], f"{counted(len(result), 'picture')} with NIfTI volumes")
    return 1 if result.left_out else 0


def embed(result: Embeddings, given: Given) -> int:
    """The neighbours; status 1 if a scan was left out."""
    if result.neighbours:
        rows = [
            [name, ", ".join(f"{other} ({cosine:.3f})" for other, cosine in near)]
            for name, near in result.neighbours.items()
        ]
        table("Nearest scans", ["scan", "neighbours (cosine)"], rows)
    done(result.file, f"{counted(result.scans, 'vector')} of {counted(result.width, 'number')}")
    return 1 if result.left_out else 0


def import_weights(result: LoadReport, given: Given) -> None:
    result.show(given["file"])
    done(given["out"] / "encoder.safetensors", f"the encoder, for --init {given['out']}")


def export_weights(result: Exported, given: Given) -> int:
    """The usage and the difference to torch; status 1 if that is too large."""
    CONSOLE.print(plain(result.usage), soft_wrap=True)
    if result.difference is not None:
        colour, verdict = ("green", "at most") if result.sound else ("red", "but should be at most")
        text = f"largest difference to torch: {result.difference:.1e}, {verdict} {result.tolerance:g}"
        CONSOLE.print(plain(text), style=colour, soft_wrap=True)
    done(given["out"], f"{result.what}; the lines above use it")
    return 0 if result.sound else 1


def recipes(result: Mapping[str, str] | Recipe, given: Given) -> None:
    if isinstance(result, dict):
        table("Packaged recipes", ["name", "what it is for"], [list(row) for row in result.items()])
        CONSOLE.print("'voxmim recipes NAME' prints all settings. A recipe of your own: a YAML file with what differs.")
    else:
        from voxmim.recipe import recipe_to_yaml

        sys.stdout.write(recipe_to_yaml(result))  # type: ignore[arg-type]


def doctor(result: list[list[str]], given: Given) -> None:
    table("This machine", ["what", "value"], result)


def view(result: None, given: Given) -> None:
    """Print nothing after the page was closed."""

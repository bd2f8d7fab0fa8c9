"""The command line: one thin function per command, no logic."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from voxmim.arguments import make_parser, settings_of
from voxmim.console import CONSOLE, ERRORS, agreed, bar, done, fail, figure, plain, table
from voxmim.errors import RecipeError, VoxmimError
from voxmim.recipe import load_recipe, packaged_recipes, recipe_to_yaml
from voxmim.workers import keep_memory

# How long threads spin while they wait for each other. OpenMP's default slows training up to tenfold beside another
# busy process, and not to spin at all costs two fifths of the speed on a quiet machine; a short while does well in
# both. Only heeded when set before torch is imported, which is why the commands import it late.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

Spacing = tuple[float, float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error that the user can mend is printed as one sentence, with exit status 2."""
    keep_memory()
    options = vars(make_parser(COMMANDS).parse_args(arguments))
    command: Callable[..., int | None] = options.pop("command")
    try:
        status = command(**options)
    except VoxmimError as error:
        fail(str(error))
    except OSError as error:  # a folder that may not be written to, a full disk
        fail(f"{error.filename or 'system'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        ERRORS.print("stopped.")
        sys.exit(130)
    sys.exit(status or 0)


def demo(
    data: Path | None, out: Path, seed: int, spacing: Spacing | None, recipe: str | None, overrides: list[str]
) -> None:
    """Run the whole journey and show its table."""
    from voxmim import api

    result = api.demo(data, out, seed, recipe, settings_of(overrides), spacing)
    rows = [[name, figure(arm["dice"], arm["ci95"]), str(arm.get("lr", ""))] for name, arm in result["arms"].items()]
    table(f"Dice on {result['cases']} test cases", ["arm", "mean Dice (95 % interval)", "learning rate"], rows)
    CONSOLE.print(result["seen"], soft_wrap=True)
    done(out / "report.html", f"the whole journey, {sum(result['seconds'].values()):.0f} s")


def study(name: str, data: list[Path], out: Path, overrides: list[str], **told: Any) -> int:
    """Answer one of the paper's questions; status 1 where trials are missing."""
    from voxmim import api

    result = api.study(name, data, out, settings=settings_of(overrides), **told)
    for sentence in [*result["choices"], *result["seen"]]:
        CONSOLE.print(plain(sentence), soft_wrap=True)
    missing = [trial for trial in result["trials"] if trial["state"] != "done"]
    if missing:
        CONSOLE.print(f"[red]{len(missing)} trials are missing[/red]; the same command tries them again.")
    done(out / name / "report.html", f"the study, {len(result['trials'])} trials")
    return 1 if missing else 0


def phantom(out: Path, cases: int, seed: int, kind: str) -> None:
    """Write phantoms."""
    from voxmim import api

    with bar("phantoms") as on_case:
        api.phantom(out, cases, seed, on_case, kind)
    done(out, f"{cases} phantoms with labels")


def download(name: str | None, out: Path, mirror: str | None, yes: bool) -> None:
    """Download a public data set, or list what there is."""
    from voxmim import api

    if name is None:
        return table("Public data sets", ["name", "what it shows", "licence"], api.data_sets())
    folder = api.download(name, out, mirror, lambda terms: agreed(terms, yes), lambda stage: bar(stage, of_bytes=True))
    done(folder, "the data set is there, for 'voxmim prepare'")


def inspect(source: Path, json_file: Path | None, html_file: Path | None, **how: Any) -> int:
    """Judge a source; status 1 where something is left out, or in doubt."""
    from voxmim import api

    with bar("reading") as on_case:
        found = api.inspect(source, json_file, html_file, on_case=on_case, **how)
    if found.findings:
        table("Findings", ["kind", "file", "reason", "what is done"], api.finding_rows(found))
    CONSOLE.print(plain(api.verdict(found)), soft_wrap=True)
    for file in filter(None, (json_file, html_file)):
        done(file, "the inspection")
    return 0 if found.sound else 1


def prepare(source: Path, out: Path, seed: int, **how: Any) -> int:
    """Prepare a store; status 1 where something was left out, or is in doubt."""
    from voxmim import api

    result = api.prepare(source, out, seed=seed, **how)
    if result.failed:
        CONSOLE.print(f"[red]{len(result.failed)} cases were left out[/red] for the reasons above.")
    if result.unresolved:
        text = f"[yellow]{len(result.unresolved)} findings are in doubt[/yellow]: mend these files or take them out and"
        CONSOLE.print(f"{text} prepare again, or train all the same with --accept-findings.", soft_wrap=True)
    done(result.store, f"{result.prepared} cases prepared, {result.skipped_already} were there already")
    return 0 if result.sound else 1


def verify(store: Path, workers: int | None, scheduler: str | None) -> int:
    """Verify a store; status 1 where something is wrong with it."""
    from voxmim import api

    faults = api.verify(store, workers, scheduler)
    for fault in faults:
        CONSOLE.print(plain(fault), style="red", soft_wrap=True)
    done(store, f"{len(faults)} fault{'' if len(faults) == 1 else 's'}")
    return 1 if faults else 0


def split(store: Path, splits: Path | None, seed: int, shares: tuple[float, float]) -> None:
    """Split a store anew."""
    from voxmim import api

    counts = api.split(store, splits, seed, shares)
    done(store, ", ".join(f"{count} {name}" for name, count in counts.items()))


def pretrain(
    store: Path,
    out: Path,
    init: Path | None,
    recipe: str | None,
    resume: bool,
    plan_only: bool,
    accept_findings: bool,
    overrides: list[str],
    **short: Any,
) -> None:
    """Pre-train, or tell what it would take."""
    from voxmim import api

    settings = settings_of(overrides, "pretrain", short)
    if plan_only and resume:
        raise RecipeError("--plan-only is for a training that has not begun; leave out --resume.")
    if plan_only:
        found = api.plan(store, recipe, settings)
        table(f"{found.steps} steps of {found.crops} crops, after a trial of some", ["what", "how much"], found.rows())
        return
    path = api.pretrain(store, out, recipe, settings, resume, init, accept_findings)
    done(path / "encoder.safetensors", "the encoder; the report is report.html beside it")


def finetune(
    store: Path,
    out: Path,
    init: Path | None,
    labels: str | None,
    recipe: str | None,
    resume: bool,
    accept_findings: bool,
    overrides: list[str],
    task: str | None,
    classes: Path | None,
    **short: Any,
) -> None:
    """Fine-tune."""
    from voxmim import api

    settings = settings_of(overrides, "finetune", short)
    if init is None and short["lr"] is not None:
        settings["scratch_lr"] = short["lr"]
    path = api.finetune(store, out, init, labels, recipe, settings, resume, task, classes, accept_findings)
    kind = "classifier" if (path / "classifier.safetensors").is_file() else "segmentor"
    done(path / f"{kind}.safetensors", f"the {kind}; the report is report.html beside it")


def evaluate(run: Path, data: Path, split: str, tolerance: float, **files: Path | None) -> None:
    """Evaluate and show the table."""
    from voxmim import api
    from voxmim.tasks.metrics import MAIN, METRICS, cells, headings

    with bar("evaluating") as on_case:
        result = api.evaluate(run, data, split, tolerance, on_case=on_case, **files)
    title = f"{len(result['cases'])} cases of the split '{split}'"
    where = files["json_file"] or files["csv_file"] or run
    if result.get("task") == "classification":
        table(title, ["figure", "value", "95 % interval", "always guessing the same"], api.result_rows(result))
        told = [*map(plain, result.get("told", [])), result["convention"]]
        CONSOLE.print(*told, sep="\n", style="dim", soft_wrap=True)
        return done(where, "the result")
    rows = []
    for name, scores in [*result["labels"].items(), ("mean", result["mean"])]:
        prior = {**result.get("prior", {}).get("labels", {}), "mean": result.get("prior", {}).get("mean", {})}
        rows.append([name, *cells(scores), METRICS[MAIN].text(prior.get(name, {}).get(MAIN))])
    table(title, ["label", *headings(tolerance), f"prior's {METRICS[MAIN].title}"], rows)
    CONSOLE.print(result["convention"], style="dim", soft_wrap=True)
    if result["left_out"]:
        CONSOLE.print(f"Left out, since they lack a channel: {plain(', '.join(result['left_out']))}.", soft_wrap=True)
    done(where, "the result")


def predict(run: Path, scans: list[Path], out: Path, probabilities: bool) -> None:
    """Label scans."""
    from voxmim import api

    with bar("labelling") as on_case:
        written = api.predict(run, scans, out, probabilities, on_case)
    done(out, f"{len(written)} label maps") if written[0].suffix == ".gz" else done(written[0], "the classes")


def reconstruct(run: Path, scans: list[Path], out: Path, seed: int) -> None:
    """Reconstruct scans."""
    from voxmim import api

    with bar("reconstructing") as on_case:
        written = api.reconstruct(run, scans, out, seed, on_case)
    done(out, f"{len(written)} pictures, each with its NIfTI volumes")


def import_weights(file: Path, out: Path, spacing: Spacing | None, overrides: list[str], **told: Any) -> None:
    """Import foreign weights and show what moved."""
    from voxmim import api

    transfer = api.import_weights(file, out, spacing=spacing, settings=settings_of(overrides), **told)
    table(f"Weights from {file}", ["", "tensors", "which"], transfer.rows())
    for supposed in transfer.warnings:
        CONSOLE.print(plain(supposed), style="yellow", soft_wrap=True)
    done(out / "encoder.safetensors", f"the encoder, for --init {out}")


def export_weights(run: Path, out: Path, to: str) -> None:
    """Export an encoder and show how the other package takes it."""
    from voxmim import api

    CONSOLE.print(plain(api.export_weights(run, out)), soft_wrap=True)
    done(out, f"the encoder for {to}, which the lines above load; CLASSES counts your labels and the background")


def recipes(name: str | None) -> None:
    """List the recipes or print one."""
    if name is not None:
        sys.stdout.write(recipe_to_yaml(load_recipe(name)))
        return
    table("Packaged recipes", ["name", "what it is for"], [[key, about] for key, about in packaged_recipes().items()])
    CONSOLE.print("All settings of one: voxmim recipes NAME. Yours: a YAML file with what differs from the defaults.")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "study": study,
    "phantom": phantom,
    "download": download,
    "inspect": inspect,
    "prepare": prepare,
    "verify": verify,
    "split": split,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "predict": predict,
    "reconstruct": reconstruct,
    "import": import_weights,
    "export": export_weights,
    "recipes": recipes,
}

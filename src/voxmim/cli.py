"""The command line: one thin function per command, no logic."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from voxmim import __version__
from voxmim.errors import RecipeError, VoxmimError
from voxmim.recipe import load_recipe, packaged_recipes, recipe_to_yaml

# How long threads spin while they wait for each other. OpenMP's default slows training up to tenfold beside another
# busy process, and not to spin at all costs two fifths of the speed on a quiet machine; a short while does well in
# both. Only heeded when set before torch is imported, which is why the commands import it late.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

_CONSOLE = Console(highlight=False)
_SHORT = {
    "steps": ("{phase}.steps", int, "optimiser steps"),
    "batch": ("{phase}.batch", int, "crops per step, over all devices"),
    "lr": ("{phase}.lr", float, "peak learning rate"),
    "seed": ("seed", int, "seed of everything random"),
    "devices": ("devices", int, "number of processes or GPUs"),
    "precision": ("precision", str, "bf16, 16 (GPU only) or 32"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error that the user can mend is printed as one sentence, with exit status 2."""
    options = vars(_parser().parse_args(arguments))
    command: Callable[..., int | None] = options.pop("command")
    try:
        status = command(**options)
    except VoxmimError as error:
        _error(str(error))
    except OSError as error:  # a folder that may not be written to, a full disk
        _error(f"{error.filename or 'system'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped.")
        sys.exit(130)
    sys.exit(status or 0)


def demo(
    data: Path | None, out: Path, seed: int, spacing: list[float] | None, recipe: str | None, overrides: list[str]
) -> None:
    """Run the whole journey and show its table."""
    from voxmim import api

    result = api.demo(data, out, seed, recipe, _settings(overrides), _triple(spacing))
    rows = [[name, _figure(arm["dice"], arm["ci95"]), str(arm.get("lr", ""))] for name, arm in result["arms"].items()]
    _table(f"Dice on {result['cases']} test cases", ["arm", "mean Dice (95 % interval)", "learning rate"], rows)
    _CONSOLE.print(result["seen"], soft_wrap=True)
    _done(out / "report.html", f"the whole journey, {sum(result['seconds'].values()):.0f} s")


def phantom(out: Path, cases: int, seed: int, kind: str) -> None:
    """Write phantoms."""
    from voxmim import api

    with _bar("phantoms") as on_case:
        api.phantom(out, cases, seed, on_case, kind)
    _done(out, f"{cases} phantoms with labels")


def prepare(
    source: Path, out: Path, spacing: list[float] | None, intensity: str, workers: int | None, seed: int
) -> int:
    """Prepare a store; status 1 where cases were left out."""
    from voxmim import api

    result = api.prepare(source, out, _triple(spacing), intensity, workers, seed)
    if result.failed:
        _CONSOLE.print(f"[red]{len(result.failed)} cases were left out[/red] for the reasons above.")
    _done(result.store, f"{result.prepared} cases prepared, {result.skipped_already} were there already")
    return 1 if result.failed else 0


def pretrain(store: Path, out: Path, recipe: str | None, resume: bool, overrides: list[str], **short: Any) -> None:
    """Pre-train."""
    from voxmim import api

    path = api.pretrain(store, out, recipe, _settings(overrides, "pretrain", short), resume)
    _done(path / "encoder.safetensors", "the encoder; the report is report.html beside it")


def finetune(
    store: Path,
    out: Path,
    init: Path | None,
    labels: str | None,
    recipe: str | None,
    resume: bool,
    overrides: list[str],
    **short: Any,
) -> None:
    """Fine-tune."""
    from voxmim import api

    settings = _settings(overrides, "finetune", short)
    if init is None and short["lr"] is not None:
        settings["scratch_lr"] = short["lr"]
    path = api.finetune(store, out, init, labels, recipe, settings, resume)
    _done(path / "segmentor.safetensors", "the segmentor; the report is report.html beside it")


def evaluate(
    run: Path, data: Path, split: str, tolerance: float, json_file: Path | None, csv_file: Path | None
) -> None:
    """Evaluate and show the table."""
    from voxmim import api

    with _bar("evaluating") as on_case:
        result = api.evaluate(run, data, split, tolerance, json_file, csv_file, on_case)
    rows = []
    for name, scores in [*result["labels"].items(), ("mean", result["mean"])]:
        prior = {**result.get("prior", {}).get("labels", {}), "mean": result.get("prior", {}).get("mean", {})}
        rows.append(
            [
                name,
                _figure(scores["dice"], scores["ci95"]),
                _figure(prior.get(name, {}).get("dice")),
                _figure(scores["hd95_mm"], digits=2),
                _figure(scores["nsd"]),
            ]
        )
    header = ["label", "Dice (95 % interval)", "prior's Dice", "HD95 (mm)", f"NSD ({tolerance:g} mm)"]
    _table(f"{len(result['cases'])} cases of the split '{split}'", header, rows)
    _CONSOLE.print(result["convention"], style="dim", soft_wrap=True)
    _done(json_file or csv_file or run, "the result")


def predict(run: Path, scans: list[Path], out: Path, probabilities: bool) -> None:
    """Label scans."""
    from voxmim import api

    with _bar("labelling") as on_case:
        written = api.predict(run, scans, out, probabilities, on_case)
    _done(out, f"{len(written)} label maps")


def reconstruct(run: Path, scans: list[Path], out: Path, seed: int) -> None:
    """Reconstruct scans."""
    from voxmim import api

    with _bar("reconstructing") as on_case:
        written = api.reconstruct(run, scans, out, seed, on_case)
    _done(out, f"{len(written)} pictures, each with its NIfTI volumes")


def recipes(name: str | None) -> None:
    """List the recipes or print one."""
    if name is not None:
        sys.stdout.write(recipe_to_yaml(load_recipe(name)))
        return
    _table("Packaged recipes", ["name", "what it is for"], [[key, about] for key, about in packaged_recipes().items()])
    _CONSOLE.print("All settings of one: voxmim recipes NAME. Yours: a YAML file with what differs from the defaults.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="voxmim",
        description="Pre-train a 3D encoder on the scans you have; fine-tune it on the few you labelled.",
        epilog="Start with 'voxmim demo': it runs the whole journey on phantoms and prints every step's command.",
    )
    parser.add_argument("--version", action="version", version=f"voxmim {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(function: Callable[..., int | None], help_text: str, more: str = "") -> argparse.ArgumentParser:
        listed = help_text.replace("%", "%%")  # argparse fills in help texts, but not descriptions
        one = commands.add_parser(function.__name__, help=listed, description=f"{help_text} {more}")
        one.set_defaults(command=function)
        return one

    one = add(demo, "The whole journey in one go, on phantoms or on your data.", "Each step's own command is printed.")
    one.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with imagesTr/, labelsTr/ and dataset.json; without it, phantoms are made",
    )
    one.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("voxmim-demo"),
        help="folder for everything (default: %(default)s)",
    )
    one.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    _add_spacing(one, "the median of the data; phantoms: 7.5")
    one.add_argument("--recipe", metavar="NAME|FILE", help="default: demo for phantoms, tiny for your data")
    _add_set(one)

    one = add(phantom, "Make a cohort of phantoms with labels, CT or MR.", "No patient is involved.")
    one.add_argument(
        "out", type=Path, metavar="OUT", help="new folder for images, labels, dataset.json and splits.json"
    )
    one.add_argument("--cases", type=int, default=40, metavar="N", help="how many (default: %(default)s)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the anatomies (default: %(default)s)")
    one.add_argument(
        "--kind",
        choices=("trunk", "head"),
        default="trunk",
        help="CT of a trunk with six organs, or MR of a head in four channels with a tumour (default: %(default)s)",
    )

    one = add(
        prepare,
        "Turn scans into a store that crops are read from quickly.",
        "Run it again to pick up where it stopped.",
    )
    one.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of .nii/.nii.gz scans, with labels in the layout of the Medical Segmentation Decathlon or without",
    )
    one.add_argument("out", type=Path, metavar="OUT", help="the store's folder")
    _add_spacing(one, "the median of the scans")
    one.add_argument(
        "--intensity",
        choices=("auto", "ct", "mr"),
        default="auto",
        help="ct keeps HU, mr becomes z-scores per scan (default: %(default)s)",
    )
    one.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    one.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the split where the source has none (default: %(default)s)",
    )

    one = add(pretrain, "Pre-train an encoder on the train and unlabelled scans of a store.", "Labels are never read.")
    _add_training(one, "tiny")

    one = add(finetune, "Train a segmentor on labelled scans, from a pre-trained encoder or from scratch.")
    one.add_argument(
        "--init", type=Path, metavar="RUN|FILE", help="start from this pre-training's encoder (default: from scratch)"
    )
    one.add_argument(
        "--labels", metavar="0.1|N", help="use this share or number of the labelled train cases (default: all)"
    )
    _add_training(one, "that of --init, or tiny")

    one = add(
        evaluate,
        "Score a segmentor: Dice, 95 % Hausdorff distance, normalised surface Dice.",
        "In each scan's own geometry, beside a prior that knows positions only.",
    )
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a fine-tuning")
    one.add_argument("data", type=Path, metavar="STORE|DIR", help="a store, or a folder of labelled scans")
    one.add_argument(
        "--split",
        default="test",
        choices=("train", "val", "test", "all"),
        help="which cases (default: %(default)s)",
    )
    one.add_argument(
        "--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (default: %(default)s)"
    )
    one.add_argument("--json", dest="json_file", type=Path, metavar="FILE", help="write the result there")
    one.add_argument("--csv", dest="csv_file", type=Path, metavar="FILE", help="write a row per case and label there")

    one = add(predict, "Label new scans, each in its own grid, affine and orientation.")
    _add_run_on_scans(one, "a fine-tuning")
    one.add_argument("--probabilities", action="store_true", help="write the probability of each label too")

    one = add(
        reconstruct,
        "Show what a pre-trained network makes of hidden parts of scans.",
        "One PNG and three NIfTI volumes each.",
    )
    _add_run_on_scans(one, "a pre-training")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the masks (default: %(default)s)")

    one = add(recipes, "List the packaged recipes, or print all settings of one.")
    one.add_argument("name", nargs="?", metavar="NAME|FILE", help="recipe to print")
    return parser


def _add_training(one: argparse.ArgumentParser, default_recipe: str) -> None:
    one.add_argument("store", type=Path, metavar="STORE", help="folder that 'voxmim prepare' wrote")
    one.add_argument("out", type=Path, metavar="OUT", help="folder for this run")
    one.add_argument("--recipe", metavar="NAME|FILE", help=f"see 'voxmim recipes' (default: {default_recipe})")
    one.add_argument("--resume", action="store_true", help="go on exactly where this run stopped")
    for name, (_, kind, text) in _SHORT.items():
        one.add_argument(f"--{name}", type=kind, help=text)
    _add_set(one)


def _add_spacing(one: argparse.ArgumentParser, default: str) -> None:
    one.add_argument(
        "--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help=f"voxel size in mm (default: {default})"
    )


def _add_set(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override any setting, such as mask.ratio=0.6 (may be repeated)",
    )  # fmt: skip


def _add_run_on_scans(one: argparse.ArgumentParser, kind: str) -> None:
    one.add_argument("run", type=Path, metavar="RUN", help=f"folder of {kind}")
    one.add_argument("scans", type=Path, nargs="+", metavar="SCAN", help="files, or folders of them")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")


def _settings(overrides: list[str], phase: str = "", short: dict[str, Any] | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for override in overrides:
        key, found, value = override.partition("=")
        if not found:
            raise RecipeError(f"--set {override}: write it as KEY=VALUE, such as mask.ratio=0.6.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {override}: '{value}' is no valid value; write it as in YAML.") from None
    for name, value in (short or {}).items():
        if value is not None:
            settings[_SHORT[name][0].format(phase=phase)] = value
    return settings


def _triple(values: list[float] | None) -> tuple[float, float, float] | None:
    return (values[0], values[1], values[2]) if values else None


class _bar:
    """A progress bar with the time left, told the cases done and their number."""

    def __init__(self, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=_CONSOLE)
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _table(title: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(_plain, row))
    _CONSOLE.print(table)


def _figure(value: float | None, interval: list[float] | None = None, digits: int = 3) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else text


def _error(text: str) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[red]error:[/red] {_plain(text)}", soft_wrap=True)
    sys.exit(2)


def _done(path: Path, what: str) -> None:
    _CONSOLE.print(f"[green]done:[/green] {_plain(what)}: {_plain(str(path))}", soft_wrap=True)


def _plain(text: str) -> str:
    """The text with its square brackets kept, which rich would take for styles."""
    return text.replace("[", "\\[")

"""What the command line takes: the arguments of each command, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from voxmim import __version__
from voxmim.errors import RecipeError

_SHORT = {
    "steps": ("{phase}.steps", int, "optimiser steps"),
    "batch": ("{phase}.batch", int, "crops per step, over all devices"),
    "lr": ("{phase}.lr", float, "peak learning rate"),
    "seed": ("seed", int, "seed of everything random"),
    "accumulate": ("{phase}.accumulate", int, "parts that each device computes its crops of a step in"),
    "devices": ("devices", int, "number of processes or GPUs, of each node"),
    "nodes": ("nodes", int, "number of machines, under torchrun or SLURM"),
    "strategy": ("strategy", str, "of several processes: ddp, or fsdp, which shares a large network out"),
    "precision": ("precision", str, "auto (bf16 where the device is fast at it, else 32), bf16, 16 (GPU only) or 32"),
}


class _Numbers(argparse.Action):
    """Several numbers as a tuple."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def make_parser(commands: Mapping[str, Callable[..., int | None]]) -> argparse.ArgumentParser:
    """The parser; what it gives has the function of the chosen command under ``command``, and its arguments."""
    parser = argparse.ArgumentParser(
        prog="voxmim",
        description="Pre-train a 3D encoder on the scans you have; fine-tune it on the few you labelled.",
        epilog="Start with 'voxmim demo': it runs the whole journey on phantoms and prints every step's command.",
    )
    parser.add_argument("--version", action="version", version=f"voxmim {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help_text: str, more: str = "") -> argparse.ArgumentParser:
        listed = help_text.replace("%", "%%")  # argparse fills in help texts, but not descriptions
        one = parsers.add_parser(name, help=listed, description=f"{help_text} {more}")
        one.set_defaults(command=commands[name])
        return one

    one = add(
        "demo", "The whole journey in one go, on phantoms or on your data.", "Each step's own command is printed."
    )
    one.add_argument(
        "--data",
        type=Path,
        metavar="SOURCE",
        help="folder or list of labelled scans; without it, phantoms are made",
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

    one = add(
        "study",
        "One of the paper's questions as an experiment on your data.",
        "It picks up where it stopped. Test cases are looked at once, at the end.",
    )
    one.add_argument("name", metavar="NAME", help="convergence, masking, decoder, labels, resolution or transfer")
    one.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="STORE",
        help="folder that 'voxmim prepare' wrote, with labels; for transfer two or more",
    )
    one.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for everything; studies in one share trainings"
    )
    one.add_argument("--seeds", type=int, metavar="N", help="how often to train everything (default: 3)")
    one.add_argument("--budget", metavar="2h", help="the time to fit in (default: all steps of the recipe)")
    one.add_argument("--labels", nargs="+", metavar="0.1|N|all", help="labelled cases to use (default: a tenth)")
    one.add_argument("--recipe", metavar="NAME|FILE", help="that all arms follow (default: tiny)")
    one.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster whose workers do a trial each")
    one.add_argument("--accept-findings", action="store_true", help="train although findings of a store are in doubt")
    _add_set(one, "override any setting, or of one pretext, such as simclr:pretrain.batch=32")

    one = add("phantom", "Make a cohort of phantoms with labels, CT or MR.", "No patient is involved.")
    one.add_argument(
        "out", type=Path, metavar="OUT", help="new folder: images, labels, dataset.json, splits.json, classes.csv"
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
        "download",
        "Bring a public data set here: the tasks of the Medical Segmentation Decathlon.",
        "Its licence and size are told first. Run it again to go on where it stopped.",
    )
    one.add_argument("name", nargs="?", metavar="NAME", help="such as msd-hippocampus; without it, all are listed")
    one.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path(),
        help="folder that gets the data set's own (default: this one)",
    )
    one.add_argument("--mirror", metavar="URL", help="address that the archive lies under (default: AWS Open Data)")
    one.add_argument("--yes", action="store_true", help="agree to the licence without being asked")

    one = add(
        "inspect",
        "Read every file of a source once, and tell what is wrong with it.",
        "And what 'voxmim prepare' will do about it, and what the scans are like. Status 1 where something is left out "
        "or in doubt.",
    )
    one.add_argument("source", type=Path, metavar="SOURCE", help="what 'voxmim prepare' takes")
    one.add_argument("--json", dest="json_file", type=Path, metavar="FILE", help="write findings and fingerprint there")
    one.add_argument("--html", dest="html_file", type=Path, metavar="FILE", help="write a page with pictures there")
    one.add_argument("--match-channels", action="store_true", help="as of 'voxmim prepare'")
    _add_workers(one)

    one = add(
        "prepare",
        "Turn scans into a store that crops are read from quickly.",
        "Run it again to pick up where it stopped.",
    )
    one.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of scans (any; or as Decathlon, nnU-Net or BIDS have it), or a list of them (.csv, .json)",
    )
    one.add_argument("out", type=Path, metavar="OUT", help="the store's folder")
    _add_spacing(one, "the median of the scans")
    one.add_argument(
        "--intensity",
        choices=("auto", "ct", "mr"),
        default="auto",
        help="ct keeps HU, mr becomes z-scores per scan (default: %(default)s)",
    )
    one.add_argument(
        "--match-channels",
        action="store_true",
        default=None,
        help="interpolate channels of another grid on that of the first (default: as the store has it, or refuse them)",
    )
    _add_workers(one)
    one.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the split where the source has none (default: %(default)s)",
    )

    one = add(
        "verify", "Read a store whole: its index against its files, checksums, label counts.", "One line per fault."
    )
    one.add_argument("store", type=Path, metavar="STORE", help="folder that 'voxmim prepare' wrote")
    _add_workers(one)

    one = add(
        "split",
        "Split the cases of a store anew, by patient.",
        "No voxel is touched, and the store keeps it as it grows.",
    )
    one.add_argument("store", type=Path, metavar="STORE", help="folder that 'voxmim prepare' wrote")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--splits", type=Path, metavar="FILE", help="JSON: lists of case names under train, val, test")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the drawing (default: %(default)s)")
    one.add_argument(
        "--shares",
        type=float,
        nargs=2,
        action=_Numbers,
        default=(0.15, 0.25),
        metavar=("VAL", "TEST"),
        help="of the labelled cases, when drawn (default: 0.15 0.25)",
    )

    one = add(
        "pretrain", "Pre-train an encoder on the train and unlabelled scans of a store.", "Labels are never read."
    )
    one.add_argument(
        "--init", type=Path, metavar="RUN|FILE", help="start from this pre-training's encoder (default: from nothing)"
    )
    _add_training(one, "that of --init, or tiny")
    one.add_argument(
        "--plan-only", action="store_true", help="try some steps and tell what all would take; nothing is written"
    )

    one = add(
        "finetune", "Train a segmentor, or a classifier of whole scans, from a pre-trained encoder or from scratch."
    )
    one.add_argument(
        "--init", type=Path, metavar="RUN|FILE", help="start from this pre-training's encoder (default: from scratch)"
    )
    one.add_argument(
        "--labels", metavar="0.1|N", help="use this share or number of the labelled train cases (default: all)"
    )
    tasks = ("segmentation", "classification")
    one.add_argument("--task", choices=tasks, help="what is learned (default: segmentation)")
    one.add_argument("--classes", type=Path, metavar="CSV", help="for a classification: table of 'case' and 'class'")
    _add_training(one, "that of --init, or tiny")

    one = add(
        "evaluate",
        "Score a segmentor: Dice, 95 % Hausdorff distance, normalised surface Dice.",
        "In each scan's own geometry, beside a prior that knows positions only. Or a classifier: its AUROC.",
    )
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a fine-tuning")
    one.add_argument("data", type=Path, metavar="STORE|DIR", help="a store, or a folder or list of labelled scans")
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
    one.add_argument(
        "--classes", type=Path, metavar="CSV", help="for a classifier: other classes than the run was given"
    )

    one = add("predict", "Label new scans, each in its own grid, affine and orientation.", "Or tell their classes.")
    _add_run_on_scans(one, "a fine-tuning")
    one.add_argument("--probabilities", action="store_true", help="write the probability of each label, or region, too")

    one = add(
        "reconstruct",
        "Show what a pre-trained network makes of hidden parts of scans.",
        "One PNG and three NIfTI volumes each.",
    )
    _add_run_on_scans(one, "a pre-training")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the masks (default: %(default)s)")

    one = add(
        "import",
        "Make an encoder of another package's weights.",
        "Known are MONAI's ViT, MAE and Swin UNETR, and 2D masked autoencoders.",
    )
    one.add_argument("file", type=Path, metavar="FILE", help="checkpoint, pickled by torch or safetensors")
    one.add_argument("out", type=Path, metavar="OUT", help="new folder for the encoder")
    one.add_argument("--like", type=Path, metavar="STORE", help="a store that the scans of these weights are like")
    _add_spacing(one, "that of --like")
    one.add_argument("--intensity", choices=("ct", "mr"), help="of the scans (default: that of --like)")
    one.add_argument("--channels", nargs="+", metavar="NAME", help="of the scans (default: those of --like)")
    one.add_argument("--licence", default="", metavar="TEXT", help="a note that goes along with the weights")
    _add_set(one, "tell what the file does not, such as vit.heads=12 or crop=[96,96,96]")

    one = add("export", "Write an encoder for another package.", "The lines that load it there are printed.")
    one.add_argument("run", type=Path, metavar="RUN|FILE", help="folder of a pre-training, or its weights")
    one.add_argument("out", type=Path, metavar="OUT", help="file to write, .safetensors or .pt")
    one.add_argument("--to", choices=("monai",), default="monai", help="the package (default: %(default)s)")

    one = add("recipes", "List the packaged recipes, or print all settings of one.")
    one.add_argument("name", nargs="?", metavar="NAME|FILE", help="recipe to print")
    return parser


def _add_training(one: argparse.ArgumentParser, default_recipe: str) -> None:
    one.add_argument("store", type=Path, metavar="STORE", help="folder that 'voxmim prepare' wrote")
    one.add_argument("out", type=Path, metavar="OUT", help="folder for this run")
    one.add_argument("--recipe", metavar="NAME|FILE", help=f"see 'voxmim recipes' (default: {default_recipe})")
    one.add_argument("--resume", action="store_true", help="go on exactly where this run stopped")
    one.add_argument("--accept-findings", action="store_true", help="train although findings of the store are in doubt")
    for name, (_, kind, text) in _SHORT.items():
        one.add_argument(f"--{name}", type=kind, help=text)
    one.add_argument("--compile", action="store_true", default=None, help="translate the network into faster code")
    _add_set(one)


def _add_workers(one: argparse.ArgumentParser) -> None:
    one.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    one.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster to work on instead (docs/clusters.md)")


def _add_spacing(one: argparse.ArgumentParser, default: str) -> None:
    one.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        action=_Numbers,
        metavar=("X", "Y", "Z"),
        help=f"voxel size in mm (default: {default})",
    )


def _add_set(one: argparse.ArgumentParser, help_text: str = "override any setting, such as mask.ratio=0.6") -> None:
    one.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help=f"{help_text} (may be repeated)",
    )  # fmt: skip


def _add_run_on_scans(one: argparse.ArgumentParser, kind: str) -> None:
    one.add_argument("run", type=Path, metavar="RUN", help=f"folder of {kind}")
    one.add_argument("scans", type=Path, nargs="+", metavar="SCAN", help="files, or folders of them")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")


def settings_of(overrides: list[str], phase: str = "", short: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `--set` and the short options of a phase (pretrain or finetune) tell, as ``{"mask.ratio": 0.6}``.

    Raises:
        RecipeError: one of `--set` is not KEY=VALUE.
    """
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
            settings[_SHORT[name][0].format(phase=phase) if name in _SHORT else name] = value
    return settings

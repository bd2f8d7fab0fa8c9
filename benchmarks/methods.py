"""Compare every pretext with every encoder on one dataset: pre-training, fine-tuning and training from scratch.

    python benchmarks/methods.py STORE --out DIR [--labels 0.1] [--seed 0]

There are six pre-training runs with the packaged recipes `tiny` and `tiny-*`. Each is fine-tuned, and each encoder is
also trained from scratch, on the same labelled cases for the same number of steps. Each learning rate of the recipe is
tried, and the best on the validation cases is kept. The test cases are scored once, at the end. An interrupted call
continues where it stopped. It takes about 1.5 hours on hippocampus crops with two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.recipe import load_recipe
from voxmim.report.machine import machine
from voxmim.report.run_page import STATUS
from voxmim.studies.tables import difference_cell
from voxmim.training.run import METRICS, Run

COMBINATIONS = ("mae-vit", "simmim-vit", "simclr-vit", "simmim-swin", "simclr-swin", "mae-unet")
RECIPES = {name: "tiny" if name == "mae-vit" else f"tiny-{name}" for name in COMBINATIONS}
SCHEDULE = ["--steps", "300", "--set", "finetune.validate_every=60"]  # the recipes' own numbers depend on the crop
# training from scratch uses the recipe of this combination
SCRATCH = {"vit": "mae-vit", "swin": "simmim-swin", "unet": "mae-unet"}


def main() -> None:
    """Run the missing trainings and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", type=Path, help="labelled store written by 'voxmim prepare'")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--labels", default="0.1", help="fraction or number of labelled cases (default: %(default)s)")
    parser.add_argument("--seed", default="0", help="seed of all trainings (default: %(default)s)")
    options = parser.parse_args()
    store, out = str(options.store), options.out
    common = ["--seed", options.seed]
    for name in COMBINATIONS:
        pretrain = ["pretrain", store, str(out / f"p-{name}"), "--recipe", RECIPES[name], *common]
        _train(pretrain)
    arms: dict[str, Run] = {}
    for encoder in SCRATCH:
        arms[f"scratch-{encoder}"] = _best_lr(out, f"scratch-{encoder}", store, options.labels, common, encoder, None)
        for name in COMBINATIONS:
            if name.endswith(encoder):
                arms[name] = _best_lr(out, name, store, options.labels, common, encoder, out / f"p-{name}")
    for run in arms.values():
        if not (run.path / "evaluation-test.json").is_file():
            _voxmim(["evaluate", str(run.path), store])
    print(f"\n{machine()}\n")
    _print_pretraining(out)
    _print_finetuning(arms)


def _best_lr(out: Path, name: str, store: str, labels: str, common: list[str], encoder: str, init: Path | None) -> Run:
    """Fine-tune with each learning rate of the recipe; returns the run with the highest validation Dice at any step."""
    recipe = RECIPES[name if init else SCRATCH[encoder]]
    runs = []
    for lr in load_recipe(recipe).lrs:
        path = out / f"f-{name}-{lr:g}"
        command = ["finetune", store, str(path), "--recipe", recipe, "--labels", labels, "--lr", f"{lr:g}", *common]
        _train([*command, *SCHEDULE, *([] if init is None else ["--init", str(init)])])
        runs.append(Run.open(path, "finetune"))
    return max(runs, key=lambda run: max(run.curve("val_dice").values()))


def _train(arguments: list[str]) -> None:
    """Run a training, or resume it; does nothing if it is finished."""
    status = Path(arguments[2]) / STATUS
    if status.is_file() and json.loads(status.read_text())["state"] == "done":
        return
    _voxmim([*arguments[:3], "--resume"] if (Path(arguments[2]) / METRICS).is_file() else arguments)


def _voxmim(arguments: list[str]) -> None:
    print("voxmim", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "voxmim", *arguments], check=True)


def _print_pretraining(out: Path) -> None:
    print("| pretext, encoder | steps | minutes | validation loss, first to last | trivial | last / trivial |")
    print("|---|---|---|---|---|---|")
    for name in COMBINATIONS:
        rows = Run.open(out / f"p-{name}", "pretrain").metrics()
        validations = [row for row in rows if "val_loss" in row]
        first, last = validations[0], validations[-1]
        trivial = f"{last['val_guess']:.3f} | {last['val_loss'] / last['val_guess']:.2f}"
        print(
            f"| {name} | {int(rows[-1]['step'])} | {rows[-1]['seconds'] / 60:.1f} | "
            f"{first['val_loss']:.3f} to {last['val_loss']:.3f} | {trivial} |"
        )


def _print_finetuning(arms: dict[str, Run]) -> None:
    results: dict[str, Any] = {
        name: json.loads((run.path / "evaluation-test.json").read_text()) for name, run in arms.items()
    }
    prior = next(iter(results.values()))["prior"]["mean"]
    print("\n| arm | lr | validation Dice by step | test Dice | 95 % interval | minus scratch, paired |")
    print("|---|---|---|---|---|---|")
    print(f"| position-only prior | | | {prior['dice']:.3f} | {_interval(prior['ci95'])} | |")
    for name, run in arms.items():
        mean = results[name]["mean"]
        difference = ""
        if not name.startswith("scratch"):
            base = results[f"scratch-{run.recipe().encoder}"]
            dice, base_dice = ([case["mean_dice"] for case in result["cases"]] for result in (results[name], base))
            difference = difference_cell(np.subtract([dice], [base_dice]))
        curve = ", ".join(f"{dice:.3f}" for dice in run.curve("val_dice").values())
        lr = run.recipe().finetune.lr
        print(f"| {name} | {lr:g} | {curve} | {mean['dice']:.3f} | {_interval(mean['ci95'])} | {difference} |")


def _interval(pair: list[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


if __name__ == "__main__":
    main()

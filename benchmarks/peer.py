"""nnU-Net, trained from scratch on the labelled cases of a study and scored as its arms are: a peer for its table.

    python benchmarks/peer.py STORE OUT --nnunet PYTHON --labels 6 --seeds 0 1 2 --minutes 60 [--study DIR/convergence]

Of every seed, the labelled cases are those that a study's fine-tuning draws. nnU-Net gets them, as prepared in the
store, beside the validation cases, which are the validation set of its one fold; it plans its network by its own rules,
trains with its own losses, rates and augmentation, and predicts the test cases with its last weights. Its
probabilities then go the way of an arm's: to the grid of each scan's own file, and through the metrics of `voxmim
evaluate`. Validation cases are scored too, so that a choice (of --memory, of --mirror) can be made by them.

nnU-Net has an environment of its own, whose Python is told by --nnunet (a CPU build of torch will do, and torchvision,
which is installed with it, need not be usable):

    python3.11 -m venv peer-venv && peer-venv/bin/pip install 'torch==2.13.0' 'nnunetv2==2.8.1'

What departs from nnU-Net's defaults (its figures are in OUT/peer.json):

- The length. --minutes is the time of one core that all steps together may take, batches included; a few steps are
  timed with the first seed, and the rate falls to zero over as many as fit. By default nnU-Net makes 1000 epochs of 250
  steps; here these are about 100 epochs, each validated on a fifth as many batches, whose time does not count.
- The patch. It is planned for --memory GB of a GPU (nnU-Net's default is 8), so that a core can do many steps. Where a
  scan is small, this may change nothing.
- Mirror images. Without --mirror, nnU-Net's own trainer without them is used (nnUNetTrainerNoMirroring), and none are
  predicted: mirror images teach a network that a left parotid may be a right one. By default nnU-Net mirrors along
  all axes; where no label has a side, --mirror lets it.
- One fold is trained, on the labelled cases alone, and not five; so nothing is averaged over folds. Its planning sees
  the validation cases, as it does in cross-validation.
- The scans are those of the store, resampled and cropped already; nnU-Net normalises them its own way.
- On a CPU its network would compute in float32. Where voxmim's arms compute in bfloat16 (CPUs fast at it), it
  does as well, in training and in prediction, which about doubles its steps in the same time. No torch.compile; batches
  are made in the training process.

OUT/results.csv has one number a row, OUT/peer.json the rest, and OUT/seed* what nnU-Net wrote, scans of patients among
it. What is done is not done again, and a training that was stopped goes on from its last checkpoint. With --study, each
of the study's arms on as many labels is held against the peer, paired by case and seed; without --minutes and --steps,
the peer then trains as long as the longest of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmim.doctor.reading import read_label
from voxmim.files import write_json, write_text
from voxmim.images.geometry import resample_to_label_map
from voxmim.images.volume import Volume, write_volume
from voxmim.networks.precision import chosen_precision
from voxmim.report.machine import machine
from voxmim.store.format import Store
from voxmim.store.prepare import PreparedScan, prepare_scan
from voxmim.studies.arm import case_scores, common_scores
from voxmim.studies.tables import PRIOR, difference_cell
from voxmim.tasks.cases import labelled_train_cases
from voxmim.tasks.intervals import mean_interval
from voxmim.tasks.metrics import METRICS, convention
from voxmim.tasks.scans import labelled_cases as cases_of_split
from voxmim.tasks.scans import source_of
from voxmim.tasks.segmentation.scores import score_case, summarise
from voxmim.tasks.segmentation.structures import Structures
from voxmim.tasks.segmentation.task import MAX_VALIDATION

PEER, SPLITS = "nnU-Net", ("val", "test")
COLUMNS = ("peer", "seed", "labels", "split", "case", "label", "metric", "value")
TOLERANCE_MM = 2.0  # of `voxmim evaluate`
Scores = dict[int, dict[str, dict[str, float]]]  # of each seed: metric, case, mean over the case's labels


def main() -> None:
    """Train and score what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", type=Path, help="a folder with labels that 'voxmim prepare' wrote")
    parser.add_argument("out", type=Path, help="folder for all that comes of it; it will hold scans")
    parser.add_argument("--nnunet", required=True, metavar="PYTHON", help="the Python that nnU-Net is installed for")
    parser.add_argument("--labels", help="share or number of the labelled cases (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--minutes", type=float, help="of one core, for the steps of a training")
    either.add_argument("--steps", type=int, help="of a training")
    parser.add_argument("--memory", type=float, default=1.0, help="GB that the patch is planned for (default: 1)")
    parser.add_argument("--mirror", action="store_true", help="mirror, as nnU-Net does by default")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--study", type=Path, help="a study's folder, with results.csv and study.json")
    options = parser.parse_args()
    store = Store(options.store)
    study = None if options.study is None else Study.read(options.study, store, options.labels)
    minutes = options.minutes
    if minutes is None and options.steps is None:
        if study is None:
            parser.error("tell --minutes or --steps, or a --study whose longest arm tells the minutes")
        minutes = max(study.minutes.values())

    bfloat16 = chosen_precision("auto", torch.device("cpu")) == "bf16"
    told, steps = {}, options.steps
    for seed in options.seeds:
        asked = {
            "labels": options.labels,
            "cases": [case.name for case in labelled_train_cases(store, options.labels, seed)],
            "data": store.digest(),
            "memory": options.memory,
            "mirror": options.mirror,
            "bfloat16": bfloat16,
            **({"minutes": minutes} if options.steps is None else {"steps": options.steps}),
        }
        folder = options.out.absolute() / f"seed{seed}"
        export(store, folder, asked)
        length = ["--minutes", str(minutes)] if steps is None else ["--steps", str(steps)]
        own = ["--seed", str(seed), "--memory", str(options.memory), *length]
        own += ["--mirror"] * options.mirror + ["--bfloat16"] * bfloat16
        found = run_nnunet(options.nnunet, folder, own, options.threads)
        steps = found["steps"]  # timed once, so that every seed makes as many
        for split in SPLITS:
            score(store, folder, split)
        told[seed] = {"asked": asked, **found}
    write_results(options.out, store, options.labels, told)
    print_tables(options.out, options.seeds, told, study)


def export(store: Store, folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what nnU-Net trains on, and the test scans, as one of its raw data sets; and what was asked for."""
    if store.regions:
        sys.exit(f"{store.path}: its labels make up regions, which this comparison does not know.")
    known = folder / "asked.json"
    if known.is_file():
        if json.loads(known.read_text()) != json.loads(json.dumps(asked)):
            sys.exit(f"{known}: something else was asked for there; name another folder.")
        return
    raw = folder / "raw" / "Dataset001_peer"
    val = [case.name for case in store.labelled("val")[:MAX_VALIDATION]]
    if not val:
        sys.exit(f"{store.path}: there is no labelled validation case, without which nnU-Net does not train.")
    for split, names in (("train", asked["cases"]), ("val", val), ("test", None)):
        for name, images in ((case.name, case.images) for case in cases_of_split(source_of(store.path, 0), split)[0]):
            if names is None or name in names:
                scan = prepare_scan(images, store.preparation)
                write_scan(raw / ("imagesTr" if names else "imagesTs"), name, scan)
                if names:
                    label_map = consecutive(store)[store.label_map(name)]
                    write_volume(raw / "labelsTr" / f"{name}.nii.gz", Volume(label_map[None], scan.grid.affine))
    is_ct = store.preparation.intensity == "ct"
    described = {
        # These names tell nnU-Net how to normalise: CT by the intensities under the labels, others by z-scores.
        "channel_names": {str(i): "CT" if is_ct else f"MR {name}" for i, name in enumerate(store.preparation.channels)},
        "labels": {"background": 0} | {store.labels[value]: i + 1 for i, value in enumerate(sorted(store.labels))},
        "numTraining": len(asked["cases"]) + len(val),
        "file_ending": ".nii.gz",
    }
    write_text(raw / "dataset.json", json.dumps(described, indent=1))
    write_text(raw / "splits_final.json", json.dumps([{"train": asked["cases"], "val": val}], indent=1))
    write_text(known, json.dumps(asked, indent=1))


def write_scan(folder: Path, name: str, scan: PreparedScan) -> None:
    """Write a prepared scan, each channel a file."""
    for channel, voxels in enumerate(scan.image):
        kept = voxels if voxels.dtype == np.int16 else voxels.astype(np.float32)  # NIfTI has no float16
        write_volume(folder / f"{name}_{channel:04d}.nii.gz", Volume(kept[None], scan.grid.affine))


def consecutive(store: Store) -> np.ndarray:
    """(256,) uint8: for each label value of the store its place among them, from 1 on, as nnU-Net wants them."""
    places = np.zeros(256, dtype=np.uint8)
    for place, value in enumerate(sorted(store.labels), start=1):
        places[value] = place
    return places


def run_nnunet(python: str, folder: Path, arguments: list[str], threads: int) -> dict[str, Any]:
    """Run nnU-Net's side, unless it is done; returns what it tells."""
    told = folder / "nnunet.json"
    if not told.is_file():
        command = [python, str(Path(__file__).with_name("peer_nnunet.py")), str(folder), *arguments]
        command += ["--threads", str(threads)]
        print(f"{shlex.join(command)}\n  it writes to {folder / 'nnunet.log'}", flush=True)
        own = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
        own |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        own["nnUNet_def_n_proc"] = "1"
        with (folder / "nnunet.log").open("a") as log:
            code = subprocess.run(command, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(f"nnU-Net ended with {code}; its last words are in {folder / 'nnunet.log'}.")
    return json.loads(told.read_text())


def score(store: Store, folder: Path, split: str) -> None:
    """Score what nnU-Net predicted as `voxmim evaluate` scores a segmentor, and write it as that does."""
    file = folder / f"evaluation-{split}.json"
    if file.is_file():
        return
    parts, scores = Structures.of_store(store, store.labelled("train")).parts, {}
    for case in cases_of_split(source_of(store.path, 0), split)[0][: MAX_VALIDATION if split == "val" else None]:
        assert case.label is not None
        name, images, label = case.name, case.images, case.label
        scan = prepare_scan(images, store.preparation)
        reference = read_label(label, scan.original, images[0])
        shares = label_shares(store, folder / "predicted" / f"{name}.npz")
        found = resample_to_label_map(shares, scan.grid, scan.original)
        scores[name] = score_case(found, reference, parts, scan.original.spacing, TOLERANCE_MM)
    about = {"run": str(folder), "data": str(store.path), "split": split, "tolerance_mm": TOLERANCE_MM}
    write_json(file, {**about, "convention": convention(), **summarise(scores)})


def label_shares(store: Store, file: Path) -> np.ndarray:
    """(largest label value + 1, X, Y, Z) float32: nnU-Net's probabilities, which it has along (K, Z, Y, X)."""
    found = np.load(file)["probabilities"].transpose(0, 3, 2, 1)
    shares = np.zeros((max(store.labels) + 1, *found.shape[1:]), dtype=np.float32)
    shares[[0, *sorted(store.labels)]] = found
    return shares


def write_results(out: Path, store: Store, labels: str | None, told: Mapping[int, Mapping[str, Any]]) -> None:
    """Write results.csv and peer.json."""
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for seed in told:
            for split in SPLITS:
                for case in evaluation(out, seed, split)["cases"]:
                    for metric in METRICS:
                        for label, value in case[metric].items():
                            rows.writerow([PEER, seed, labels or "all", split, case["case"], label, metric, value])
    about = {
        "peer": PEER,
        "command": shlex.join(["python", *sys.argv]),
        "store": store.name,
        "data": store.digest(),
        "machine": machine(),
        "seeds": told,
        "mean": {split: {seed: evaluation(out, seed, split)["mean"] for seed in told} for split in SPLITS},
    }
    write_text(out / "peer.json", json.dumps(about, indent=1))


def evaluation(out: Path, seed: int, split: str) -> dict[str, Any]:
    """What `score` wrote."""
    return json.loads((out / f"seed{seed}" / f"evaluation-{split}.json").read_text())


@dataclass(frozen=True)
class Study:
    """What a study's arms scored on the test cases.

    Attributes:
        scores: of each arm, by its name.
        minutes: of each arm the longest of its seeds, pre-training and validations included.
    """

    scores: dict[str, Scores]
    minutes: dict[str, float]

    @classmethod
    def read(cls, folder: Path, store: Store, labels: str | None) -> Study:
        """The arms with so many labels of a study on this store."""
        told = json.loads((folder / "study.json").read_text())
        if not any(store.digest() in fact for fact in told["facts"].values()):
            sys.exit(f"{folder}: that study was made on other data than {store.path}; name its own store.")
        count = len(labelled_train_cases(store, labels, 0))  # however it is told, as a share or a number
        same = [arm for arm in told["arms"] if len(labelled_train_cases(store, arm["labels"], 0)) == count]
        arms = {(arm["group"], arm["name"]) for arm in same}
        arms |= {(group, PRIOR) for group, _ in arms}
        if not arms:
            sys.exit(f"{folder}: none of its arms has {count} labelled cases; tell --labels as it was told there.")
        values: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
        seconds: dict[str, float] = defaultdict(float)
        runs: dict[str, set[str]] = defaultdict(set)
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["metric"] == "seconds":
                    seconds[row["trial"]] = max(seconds[row["trial"]], float(row["value"]))
                name = f"{row['arm']}, {row['group']}" if row["group"] else row["arm"]
                if row["kind"] != "evaluate" or (row["group"], row["arm"]) not in arms:
                    continue
                if row["arm"] != PRIOR:
                    runs[name].add(row["trial"])
                if row["value"]:  # empty where a label is not counted
                    values[name, int(row["seed"]), row["metric"], row["case"]].append(float(row["value"]))
        scores: dict[str, Scores] = {}
        for (name, seed, metric, case), found in values.items():
            of_seed = scores.setdefault(name, {}).setdefault(seed, {key: {} for key in METRICS})
            of_seed[metric][case] = float(np.mean(found))
        starts = dict(_starts(told["trials"]))
        spent = {run: seconds[run] + seconds.get(starts.get(run, ""), 0.0) for names in runs.values() for run in names}
        return cls(scores, {name: max(spent[run] for run in names) / 60 for name, names in runs.items()})


def _starts(trials: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Of each fine-tuning that starts from a pre-training, the names of both."""
    for trial in trials:
        words = shlex.split(trial["command"])
        if "--init" in words:
            yield trial["trial"], Path(words[words.index("--init") + 1]).name


def print_tables(out: Path, seeds: list[int], told: Mapping[int, Mapping[str, Any]], study: Study | None) -> None:
    """Print the peer's means and, where there is a study, how its arms differ from them."""
    first = told[seeds[0]]
    print(f"\n{machine()}\n{PEER}: {json.dumps(first['plan'])}")
    print("| seed | labelled cases | steps | s a step | minutes of training | of prediction | val Dice | test Dice |")
    print("|---|---|---|---|---|---|---|---|")
    for seed, found in told.items():
        means = [f"{evaluation(out, seed, split)['mean']['dice']:.3f}" for split in SPLITS]
        figures = [f"{found[key]:.2f}" for key in ("step_seconds", "minutes", "prediction_minutes")]
        print(f"| {seed} | {len(found['asked']['cases'])} | {found['steps']} | {' | '.join([*figures, *means])} |")
    peer: Scores = {
        seed: {metric: case_scores(evaluation(out, seed, "test"), metric) for metric in METRICS} for seed in seeds
    }
    heads = " | ".join(f"{metric.heading()} | against {PEER}" for metric in METRICS.values())
    print(f"\n| on test cases | minutes | {heads} |")
    print("|---" * (2 + 2 * len(METRICS)) + "|")
    print(f"| {PEER} | {max(found['minutes'] for found in told.values()):.1f} | {_cells(peer, peer)} |")
    for name, scores in {} if study is None else study.scores.items():
        minutes = study.minutes.get(name)
        print(f"| {name} | {'–' if minutes is None else f'{minutes:.1f}'} | {_cells(peer, scores)} |")
    print(f"\nDice: mean and 95 % interval over seeds and cases. {convention()}")


def _cells(peer: Scores, other: Scores) -> str:
    """Of each metric the other's mean, and what it has more than the peer, over the seeds and cases of both."""
    cells = []
    for metric in METRICS:
        common = [seed for seed in peer if seed in other]
        pair = common_scores([[scores[seed][metric] for seed in common] for scores in (peer, other)])
        if not pair:
            cells += ["not there"] * 2
            continue
        low, high = mean_interval(pair[1])
        digits = METRICS[metric].digits
        cells.append(f"{pair[1].mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        cells.append("" if other is peer else difference_cell(pair[1] - pair[0], digits))
    return " | ".join(cells)


if __name__ == "__main__":
    main()

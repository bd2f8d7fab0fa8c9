"""Train nnU-Net from scratch on the labelled cases of a study, as an external baseline.

    python benchmarks/peer.py STORE OUT --nnunet PYTHON --labels 6 --seeds 0 1 2 --minutes 60 [--study DIR/convergence]

For each seed, nnU-Net trains on the labelled cases that fine-tuning in a study selects for that seed, as prepared in
the store. It uses its own planning, losses, learning rates and augmentation, and predicts with its last weights. Its
probabilities are resampled to the original grid of each scan and scored with the metrics of `voxmim evaluate`, as for
voxmim's networks. The validation cases are scored too: use them to choose options such as --memory and --mirror.

nnU-Net needs a separate environment; pass its Python with --nnunet. A CPU build of torch is enough, and torchvision,
which is installed as a dependency, does not have to work:

    python3.11 -m venv peer-venv && peer-venv/bin/pip install 'torch==2.13.0' 'nnunetv2==2.8.1'

Differences from nnU-Net's defaults (the values used are in OUT/peer.json):

- Length: --minutes is the CPU time for all training steps, including data loading and augmentation. The number of steps
  follows from the time of a few steps with the first seed, and the learning rate decays to zero over these steps.
  There are about 100 epochs, instead of 1000 epochs of 250 steps. The time of validation is not counted.
- Patch size: planned for --memory GB of GPU memory instead of 8, so that a CPU core can do more steps. For small scans
  this may make no difference.
- Mirroring: off, in training (nnUNetTrainerNoMirroring) and in prediction, because it makes left and right organs
  indistinguishable. nnU-Net mirrors along all axes by default; use --mirror if no label has a side.
- Folds: one fold is trained, on the labelled cases only, so there is no ensemble. As in cross-validation, planning also
  uses the validation cases.
- Data: the scans of the store are already resampled and cropped. nnU-Net applies its own normalisation.
- Precision: bfloat16 in training and prediction on CPUs where voxmim uses it, which about doubles the number of steps
  in the same time. nnU-Net uses float32 on CPUs.
- Batches are made in the training process, and torch.compile is off.

Writes OUT/results.csv (one value per row), OUT/peer.json (settings, timings, mean scores) and nnU-Net's files in
OUT/seed*, which include the scans. Finished parts are skipped, and an interrupted training resumes from its last
checkpoint. With --study, the study's arms with the same number of labelled cases are compared with nnU-Net, paired by
case and seed; without --minutes and --steps, nnU-Net then trains as long as the slowest of these arms.
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
from collections.abc import Mapping
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
from voxmim.studies.tables import MISSING, PRIOR, difference_cell
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
TOLERANCE_MM = 2.0  # the default of `voxmim evaluate`
Scores = dict[int, dict[str, dict[str, float]]]  # seed, metric, case: mean over the labels


def main() -> None:
    """Train and evaluate nnU-Net for each seed, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", type=Path, help="labelled store written by 'voxmim prepare'")
    parser.add_argument("out", type=Path, help="output folder; will contain scans")
    parser.add_argument("--nnunet", required=True, metavar="PYTHON", help="Python of the environment with nnU-Net")
    parser.add_argument("--labels", help="fraction or number of labelled cases (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="CPU minutes for the training steps")
    length.add_argument("--steps", type=int, help="number of training steps")
    parser.add_argument("--memory", type=float, default=1.0, help="GPU memory in GB to plan the patch for (default: 1)")
    parser.add_argument("--mirror", action="store_true", help="use mirroring, as nnU-Net does by default")
    parser.add_argument("--threads", type=int, default=1, help="number of torch threads (default: 1)")
    parser.add_argument("--study", type=Path, help="folder with the results.csv and study.json of a study")
    options = parser.parse_args()
    store = Store(options.store)
    study = None if options.study is None else Study.read(options.study, store, options.labels)
    minutes = options.minutes
    if minutes is None and options.steps is None:
        if study is None:
            parser.error("give --minutes, --steps or --study")
        minutes = max(study.minutes.values())

    bfloat16 = chosen_precision("auto", torch.device("cpu")) == "bf16"
    results, steps = {}, options.steps
    for seed in options.seeds:
        request = {
            "labels": options.labels,
            "cases": [case.name for case in labelled_train_cases(store, options.labels, seed)],
            "data": store.digest(),
            "memory": options.memory,
            "mirror": options.mirror,
            "bfloat16": bfloat16,
            **({"minutes": minutes} if options.steps is None else {"steps": options.steps}),
        }
        folder = options.out.absolute() / f"seed{seed}"
        export(store, folder, request)
        arguments = ["--seed", str(seed), "--memory", str(options.memory)]
        arguments += ["--minutes", str(minutes)] if steps is None else ["--steps", str(steps)]
        arguments += ["--mirror"] * options.mirror + ["--bfloat16"] * bfloat16
        result = run_nnunet(options.nnunet, folder, arguments, options.threads)
        steps = result["steps"]  # the same number of steps for every seed
        for split in SPLITS:
            evaluate(store, folder, split)
        results[seed] = {"request": request, **result}
    write_results(options.out, store, options.labels, results)
    print_tables(options.out, options.seeds, results, study)


def export(store: Store, folder: Path, request: Mapping[str, Any]) -> None:
    """Write the cases as a raw dataset of nnU-Net, and the request to request.json."""
    if store.regions:
        sys.exit(f"{store.path}: labels that form regions are not supported.")
    request_file = folder / "request.json"
    if request_file.is_file():
        if json.loads(request_file.read_text()) != json.loads(json.dumps(request)):
            sys.exit(f"{request_file}: made with other options or data; choose another output folder.")
        return
    raw = folder / "raw" / "Dataset001_peer"
    val = [case.name for case in store.labelled("val")[:MAX_VALIDATION]]
    if not val:
        sys.exit(f"{store.path}: no labelled validation cases, which nnU-Net needs.")
    for split, names in (("train", request["cases"]), ("val", val), ("test", None)):
        for case in cases_of_split(source_of(store.path, 0), split)[0]:
            if names is not None and case.name not in names:
                continue
            scan = prepare_scan(case.images, store.preparation)
            write_scan(raw / ("imagesTs" if split == "test" else "imagesTr"), case.name, scan)
            if split != "test":
                label_map = consecutive_labels(store)[store.label_map(case.name)]
                write_volume(raw / "labelsTr" / f"{case.name}.nii.gz", Volume(label_map[None], scan.grid.affine))
    is_ct = store.preparation.intensity == "ct"
    dataset = {
        # nnU-Net chooses the normalisation by channel name: foreground statistics for "CT", otherwise z-scores.
        "channel_names": {str(i): "CT" if is_ct else f"MR {name}" for i, name in enumerate(store.preparation.channels)},
        "labels": {"background": 0} | {store.labels[value]: i + 1 for i, value in enumerate(sorted(store.labels))},
        "numTraining": len(request["cases"]) + len(val),
        "file_ending": ".nii.gz",
    }
    write_text(raw / "dataset.json", json.dumps(dataset, indent=1))
    write_text(raw / "splits_final.json", json.dumps([{"train": request["cases"], "val": val}], indent=1))
    write_text(request_file, json.dumps(request, indent=1))


def write_scan(folder: Path, name: str, scan: PreparedScan) -> None:
    """Write a prepared scan, one file per channel."""
    for channel, voxels in enumerate(scan.image):
        array = voxels if voxels.dtype == np.int16 else voxels.astype(np.float32)  # NIfTI has no float16
        write_volume(folder / f"{name}_{channel:04d}.nii.gz", Volume(array[None], scan.grid.affine))


def consecutive_labels(store: Store) -> np.ndarray:
    """Lookup table (256,) uint8 from the store's label values to 1, 2, 3, ..., which nnU-Net requires."""
    table = np.zeros(256, dtype=np.uint8)
    for index, value in enumerate(sorted(store.labels), start=1):
        table[value] = index
    return table


def run_nnunet(python: str, folder: Path, arguments: list[str], threads: int) -> dict[str, Any]:
    """Run peer_nnunet.py in nnU-Net's environment, unless it has finished before; returns its result."""
    result = folder / "nnunet.json"
    if not result.is_file():
        command = [python, str(Path(__file__).with_name("peer_nnunet.py")), str(folder), *arguments]
        command += ["--threads", str(threads)]
        print(f"{shlex.join(command)}\n  log: {folder / 'nnunet.log'}", flush=True)
        env = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        env["nnUNet_def_n_proc"] = "1"
        with (folder / "nnunet.log").open("a") as log:
            code = subprocess.run(command, env=os.environ | env, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(f"nnU-Net failed with exit code {code}; see {folder / 'nnunet.log'}.")
    return json.loads(result.read_text())


def evaluate(store: Store, folder: Path, split: str) -> None:
    """Score the predictions of a split, and write the scores as `voxmim evaluate` does."""
    file = folder / f"evaluation-{split}.json"
    if file.is_file():
        return
    parts, scores = Structures.of_store(store, store.labelled("train")).parts, {}
    for case in cases_of_split(source_of(store.path, 0), split)[0][: MAX_VALIDATION if split == "val" else None]:
        assert case.label is not None
        scan = prepare_scan(case.images, store.preparation)
        reference = read_label(case.label, scan.original, case.images[0])
        probabilities = label_probabilities(store, folder / "predicted" / f"{case.name}.npz")
        prediction = resample_to_label_map(probabilities, scan.grid, scan.original)
        scores[case.name] = score_case(prediction, reference, parts, scan.original.spacing, TOLERANCE_MM)
    header = {"run": str(folder), "data": str(store.path), "split": split, "tolerance_mm": TOLERANCE_MM}
    write_json(file, {**header, "convention": convention(), **summarise(scores)})


def label_probabilities(store: Store, file: Path) -> np.ndarray:
    """(largest label value + 1, X, Y, Z) float32, from nnU-Net's probabilities (K, Z, Y, X)."""
    predicted = np.load(file)["probabilities"].transpose(0, 3, 2, 1)
    probabilities = np.zeros((max(store.labels) + 1, *predicted.shape[1:]), dtype=np.float32)
    probabilities[[0, *sorted(store.labels)]] = predicted
    return probabilities


def write_results(out: Path, store: Store, labels: str | None, results: Mapping[int, Mapping[str, Any]]) -> None:
    """Write results.csv and peer.json."""
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for seed in results:
            for split in SPLITS:
                for case in evaluation(out, seed, split)["cases"]:
                    for metric in METRICS:
                        for label, value in case[metric].items():
                            writer.writerow([PEER, seed, labels or "all", split, case["case"], label, metric, value])
    summary = {
        "peer": PEER,
        "command": shlex.join(["python", *sys.argv]),
        "store": store.name,
        "data": store.digest(),
        "machine": machine(),
        "seeds": results,
        "mean": {split: {seed: evaluation(out, seed, split)["mean"] for seed in results} for split in SPLITS},
    }
    write_text(out / "peer.json", json.dumps(summary, indent=1))


def evaluation(out: Path, seed: int, split: str) -> dict[str, Any]:
    """The scores written by `evaluate`."""
    return json.loads((out / f"seed{seed}" / f"evaluation-{split}.json").read_text())


@dataclass(frozen=True)
class Study:
    """Scores of a study's arms on the test cases.

    Attributes:
        scores: scores of each arm.
        minutes: minutes of each arm's slowest run, including pre-training and validation.
    """

    scores: dict[str, Scores]
    minutes: dict[str, float]

    @classmethod
    def read(cls, folder: Path, store: Store, labels: str | None) -> Study:
        """Read the arms of a study on this store that use as many labelled cases."""
        study = json.loads((folder / "study.json").read_text())
        if not any(store.digest() in fact for fact in study["facts"].values()):
            sys.exit(f"{folder}: this study used other data than {store.path}; give the store of the study.")
        count = len(labelled_train_cases(store, labels, 0))  # counts are comparable; `labels` may be a fraction
        same = [arm for arm in study["arms"] if len(labelled_train_cases(store, arm["labels"], 0)) == count]
        arms = {(arm["group"], arm["name"]) for arm in same}
        arms |= {(group, PRIOR) for group, _ in arms}
        if not arms:
            sys.exit(f"{folder}: no arm uses {count} labelled cases; give the same --labels as the study.")
        values: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
        seconds: dict[str, float] = defaultdict(float)
        runs: dict[str, set[str]] = defaultdict(set)
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["metric"] == "seconds":
                    seconds[row["trial"]] = max(seconds[row["trial"]], float(row["value"]))
                if row["kind"] != "evaluate" or (row["group"], row["arm"]) not in arms:
                    continue
                name = f"{row['arm']}, {row['group']}" if row["group"] else row["arm"]
                if row["arm"] != PRIOR:
                    runs[name].add(row["trial"])
                if row["value"]:  # empty if the label is not scored
                    values[name, int(row["seed"]), row["metric"], row["case"]].append(float(row["value"]))
        scores: dict[str, Scores] = {}
        for (name, seed, metric, case), label_values in values.items():
            of_seed = scores.setdefault(name, {}).setdefault(seed, {key: {} for key in METRICS})
            of_seed[metric][case] = float(np.mean(label_values))
        inits = init_runs(study["trials"])
        total = {run: seconds[run] + seconds.get(inits.get(run, ""), 0.0) for names in runs.values() for run in names}
        return cls(scores, {name: max(total[run] for run in names) / 60 for name, names in runs.items()})


def init_runs(trials: list[dict[str, Any]]) -> dict[str, str]:
    """The pre-training run that each fine-tuning trial starts from."""
    inits = {}
    for trial in trials:
        words = shlex.split(trial["command"])
        if "--init" in words:
            inits[trial["trial"]] = Path(words[words.index("--init") + 1]).name
    return inits


def print_tables(out: Path, seeds: list[int], results: Mapping[int, Mapping[str, Any]], study: Study | None) -> None:
    """Print nnU-Net's results and, with a study, the differences of its arms from nnU-Net."""
    print(f"\n{machine()}\n{PEER}: {json.dumps(results[seeds[0]]['plan'])}")
    print("| seed | labelled cases | steps | s/step | training minutes | prediction minutes | val Dice | test Dice |")
    print("|---|---|---|---|---|---|---|---|")
    for seed, result in results.items():
        means = [f"{evaluation(out, seed, split)['mean']['dice']:.3f}" for split in SPLITS]
        times = [f"{result[key]:.2f}" for key in ("step_seconds", "minutes", "prediction_minutes")]
        print(f"| {seed} | {len(result['request']['cases'])} | {result['steps']} | {' | '.join([*times, *means])} |")
    peer: Scores = {
        seed: {metric: case_scores(evaluation(out, seed, "test"), metric) for metric in METRICS} for seed in seeds
    }
    headings = " | ".join(f"{metric.heading()} | minus {PEER}" for metric in METRICS.values())
    print(f"\n| test cases | minutes | {headings} |")
    print("|---" * (2 + 2 * len(METRICS)) + "|")
    print(f"| {PEER} | {max(result['minutes'] for result in results.values()):.1f} | {score_cells(peer, peer)} |")
    for name, scores in {} if study is None else study.scores.items():
        minutes = study.minutes.get(name)
        print(f"| {name} | {'–' if minutes is None else f'{minutes:.1f}'} | {score_cells(peer, scores)} |")
    print(f"\nMean and 95 % interval over seeds and cases. {convention()}")


def score_cells(peer: Scores, other: Scores) -> str:
    """The mean of `other` and its difference from `peer` for each metric, over their common seeds and cases."""
    cells = []
    for metric in METRICS:
        seeds = [seed for seed in peer if seed in other]
        pair = common_scores([[scores[seed][metric] for seed in seeds] for scores in (peer, other)])
        if not pair:
            cells += [MISSING] * 2
            continue
        low, high = mean_interval(pair[1])
        digits = METRICS[metric].digits
        cells.append(f"{pair[1].mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        cells.append("" if other is peer else difference_cell(pair[1] - pair[0], digits))
    return " | ".join(cells)


if __name__ == "__main__":
    main()

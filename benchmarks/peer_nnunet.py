"""Plan, train and predict with nnU-Net; peer.py runs this script with the Python that has nnU-Net installed.

It does not import voxmim. It plans and preprocesses the raw dataset in FOLDER/raw, times a few steps, trains for as
many steps as fit into the given minutes, and predicts the validation and test cases. Output in FOLDER, besides
nnU-Net's own:

    schedule.json   plan, seconds per step and number of steps; written before training
    epochs.json     time, losses and Dice of each epoch
    predicted/      CASE.npz with the probabilities of each label, (K, Z, Y, X)
    nnunet.json     result: schedule, epochs, timings and versions; written last

An interrupted run resumes from its last checkpoint with the same number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring

DATASET, CONFIGURATION = "Dataset001_peer", "3d_fullres"
NUM_WORKERS = "nnUNet_n_proc_DA"  # environment variable of nnU-Net: number of processes that make batches
EPOCHS = 100  # approximate; nnU-Net lowers the learning rate once per epoch, so a short training needs many epochs too
WARM_UP_STEPS, TIMED_STEPS, MAX_TIMING_SECONDS = 2, 10, 120.0


def main() -> None:
    """Run all stages, skipping those that are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the raw dataset in raw/")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--memory", type=float, required=True, help="GPU memory in GB to plan the patch for")
    parser.add_argument("--minutes", type=float, help="CPU minutes for the training steps")
    parser.add_argument("--steps", type=int, help="number of steps; overrides --minutes")
    parser.add_argument("--mirror", action="store_true", help="use mirroring in training and prediction")
    parser.add_argument("--bfloat16", action="store_true", help="use bfloat16 autocast")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    trainer_class = MirroringTrainer if options.mirror else NoMirroringTrainer
    trainer_class.bfloat16 = options.bfloat16
    preprocessed = folder / "preprocessed" / DATASET

    schedule_file = folder / "schedule.json"
    if not schedule_file.is_file():
        plan = plan_and_preprocess(options.memory)
        seconds, memory = time_steps(lambda: make_trainer(trainer_class, preprocessed))
        steps = options.steps or max(1, int(60 * options.minutes / seconds))
        write_json(schedule_file, {"plan": plan, "step_seconds": seconds, "gigabytes": memory, **make_schedule(steps)})
    schedule = json.loads(schedule_file.read_text())
    print(f"{schedule['epochs']} epochs of {schedule['iterations']} steps, {schedule['step_seconds']:.2f} s each")

    seed_everything(options.seed)
    trainer = make_trainer(trainer_class, preprocessed)
    trainer.epochs_file = folder / "epochs.json"
    trainer.num_epochs, trainer.num_iterations_per_epoch = schedule["epochs"], schedule["iterations"]
    trainer.num_val_iterations_per_epoch = max(1, schedule["iterations"] // 5)  # ratio of nnU-Net
    trainer.save_every = max(1, schedule["epochs"] // 10)
    results = Path(trainer.output_folder)
    final, latest = results / "checkpoint_final.pth", results / "checkpoint_latest.pth"
    if final.is_file() or latest.is_file():
        trainer.load_checkpoint(str(final if final.is_file() else latest))
        # Checkpoints have no random state, and the original seed would repeat the first patches.
        seed_everything(1000 * options.seed + trainer.current_epoch)
    if not final.is_file():
        trainer.run_training()
    start = time.process_time()
    predict(trainer, folder, options.mirror)

    epochs = json.loads(trainer.epochs_file.read_text())
    result = {
        "trainer": trainer_class.__mro__[2].__name__,
        "steps": schedule["epochs"] * schedule["iterations"],
        "minutes": sum(epoch["cpu_seconds"] for epoch in epochs) / 60,
        "wall_minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
        "prediction_minutes": (time.process_time() - start) / 60,
        "peak_gigabytes": peak_memory(),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "rate": trainer.initial_lr,
        "threads": options.threads,
        "bfloat16": options.bfloat16,
        "epochs_log": epochs,
        "versions": {name: version(name) for name in ("nnunetv2", "torch", "batchgeneratorsv2", "numpy")},
    }
    write_json(folder / "nnunet.json", {**schedule, **result})


def plan_and_preprocess(memory: float) -> dict[str, Any]:
    """Plan and preprocess with nnU-Net; returns a summary of the plan."""
    os.environ[NUM_WORKERS] = "1"  # the planner sets the number of torch threads to this, so it must not be 0
    extract_fingerprints([1], num_processes=1, check_dataset_integrity=True, verbose=False, show_progress_bar=False)
    plans, name = plan_experiment_dataset(1, gpu_memory_target_in_gb=memory)
    preprocess_dataset(1, name, [CONFIGURATION], [1], show_progress_bar=False)
    plan = plans["configurations"][CONFIGURATION]
    network = plan["architecture"]["arch_kwargs"]
    return {
        "configuration": CONFIGURATION,
        "memory_target_gb": memory,
        "patch": [int(plan["patch_size"][axis]) for axis in reversed(plans["transpose_backward"])],  # X, Y, Z
        "batch": int(plan["batch_size"]),
        "spacing": [float(plan["spacing"][axis]) for axis in reversed(plans["transpose_backward"])],
        "normalisation": plan["normalization_schemes"],
        "batch_dice": plan["batch_dice"],
        "network": plan["architecture"]["network_class_name"].rpartition(".")[2],
        "features": [int(n) for n in network["features_per_stage"]],
        "strides": [[int(n) for n in stride] for stride in network["strides"]],
    }


def seed_everything(seed: int) -> None:
    """Seed all random number generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_schedule(steps: int) -> dict[str, int]:
    """Split at most `steps` steps into about `EPOCHS` epochs of equal length."""
    iterations = max(1, steps // EPOCHS)
    return {"epochs": steps // iterations, "iterations": iterations}


class TrainerMixin:
    """Adds to a trainer of nnU-Net: a log of each epoch, and bfloat16. Omits files that are not needed."""

    bfloat16: bool
    epochs_file: Path
    log: list[dict[str, float]]

    def initialize(self) -> None:
        super().initialize()
        if self.bfloat16:
            self.network.forward = bfloat16_forward(self.network.forward)

    def on_train_start(self) -> None:
        super().on_train_start()
        log = json.loads(self.epochs_file.read_text()) if self.current_epoch else []
        self.log = log[: self.current_epoch]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._start = time.monotonic(), time.process_time()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        seconds, cpu_seconds = time.monotonic() - self._start[0], time.process_time() - self._start[1]
        self.log.append({"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)})
        super().on_train_epoch_end(train_outputs)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        keys = {"loss": "train_losses", "val_loss": "val_losses", "pseudo_dice": "mean_fg_dice", "rate": "lrs"}
        self.log[-1] |= {name: float(self.logger.get_value(key, -1)) for name, key in keys.items()}
        write_json(self.epochs_file, self.log)

    def save_checkpoint(self, filename: str) -> None:
        """Skip the best checkpoint: predictions use the last weights, as in nnU-Net."""
        if not filename.endswith("checkpoint_best.pth"):
            super().save_checkpoint(filename)

    def plot_network_architecture(self) -> None:
        """Skip the plot."""


def bfloat16_forward(forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """Wrap a forward pass in bfloat16 autocast, with outputs in float32.

    nnU-Net uses float16 autocast on a GPU, but no autocast on a CPU.
    """

    def run(patches: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(patches)
        # with deep supervision, one output per resolution
        return [level.float() for level in output] if isinstance(output, list | tuple) else output.float()

    return run


class MirroringTrainer(TrainerMixin, nnUNetTrainer):
    """nnU-Net's default trainer."""


class NoMirroringTrainer(TrainerMixin, nnUNetTrainerNoMirroring):
    """nnU-Net's trainer without mirroring."""


def make_trainer(trainer_class: type[TrainerMixin], preprocessed: Path) -> Any:
    """A new trainer on the CPU."""
    os.environ[NUM_WORKERS] = "0"  # batches are made in this process, so that its CPU time includes them
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = trainer_class(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.logger.plot_progress_png = lambda folder: None
    return trainer


def time_steps(make: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds per step, including data loading and augmentation, and peak memory in GB."""
    trainer, times = make(), []
    trainer.on_train_start()
    trainer.network.train()
    while len(times) < WARM_UP_STEPS + TIMED_STEPS and sum(times) < MAX_TIMING_SECONDS:
        start = time.process_time()
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.process_time() - start)
    timed = times[WARM_UP_STEPS:] or times[-1:]
    return sum(timed) / len(timed), peak_memory()


def predict(trainer: Any, folder: Path, mirror: bool) -> None:
    """Write the probabilities of the validation and test cases, skipping existing ones."""
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=mirror, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes if mirror else None,
    )
    raw, out = folder / "raw" / DATASET, folder / "predicted"
    out.mkdir(exist_ok=True)
    cases = [raw / "imagesTr" / name for name in json.loads((raw / "splits_final.json").read_text())[0]["val"]]
    cases += sorted({raw / "imagesTs" / file.name[:-12] for file in (raw / "imagesTs").iterdir()})
    channels = range(len(trainer.dataset_json["channel_names"]))
    for case in cases:
        if not (out / f"{case.name}.nii.gz").is_file():  # nnU-Net writes it after the probabilities
            files = [f"{case}_{channel:04d}.nii.gz" for channel in channels]
            predictor.predict_from_files_sequential([files], [str(out / f"{case.name}")], save_probabilities=True)


def peak_memory() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # ru_maxrss is in KiB


def write_json(file: Path, content: Any) -> None:
    """Write JSON atomically."""
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(file)


if __name__ == "__main__":
    main()

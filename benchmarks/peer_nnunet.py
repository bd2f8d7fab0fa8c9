"""nnU-Net's side of peer.py, which starts it with the Python that nnU-Net is installed for; nothing of voxmim is here.

It plans and preprocesses a raw data set, times some steps, trains for as many as fit the minutes, and predicts the
validation and test cases. Besides nnU-Net's own folders it leaves these in FOLDER:

    schedule.json   the plan, the seconds of a step and the number of steps, written before the training
    epochs.json     what each epoch took and came to
    predicted/      CASE.npz with the probabilities of each label, (K, Z, Y, X)
    nnunet.json     all of the above that a reader wants, with versions; written last

A run that was stopped goes on from its last checkpoint with the number of steps that it was planned with.
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
PROCESSES = "nnUNet_n_proc_DA"  # a variable that nnU-Net reads: how many processes make its batches
EPOCHS = 100  # about; nnU-Net lowers its rate from epoch to epoch, so there must be many, however short the training
WARM_UP, STEPS, PATIENCE = 2, 10, 120.0  # steps that are not timed, those that are, and CPU seconds to stop timing at


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the raw data set in raw/, as peer.py writes it")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--memory", type=float, required=True, help="GB of a GPU that nnU-Net plans its patch for")
    parser.add_argument("--minutes", type=float, help="CPU minutes that the steps may take")
    parser.add_argument("--steps", type=int, help="the number of steps, where it is known")
    parser.add_argument("--mirror", action="store_true", help="mirror, in training and in prediction")
    parser.add_argument("--bfloat16", action="store_true", help="let the network compute in it")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    trainer_class = Mirroring if options.mirror else NotMirroring
    trainer_class.bfloat16 = options.bfloat16
    preprocessed = folder / "preprocessed" / DATASET

    schedule_file = folder / "schedule.json"
    if not schedule_file.is_file():
        plan = plan_and_preprocess(options.memory)
        seconds, memory = time_steps(lambda: make_trainer(trainer_class, preprocessed))
        steps = options.steps or max(1, int(60 * options.minutes / seconds))
        write(schedule_file, {"plan": plan, "step_seconds": seconds, "gigabytes": memory, **schedule_of(steps)})
    schedule = json.loads(schedule_file.read_text())
    print(f"{schedule['epochs']} epochs of {schedule['iterations']} steps, {schedule['step_seconds']:.2f} s each")

    sow(options.seed)
    trainer = make_trainer(trainer_class, preprocessed)
    trainer.epochs_file = folder / "epochs.json"
    trainer.num_epochs, trainer.num_iterations_per_epoch = schedule["epochs"], schedule["iterations"]
    trainer.num_val_iterations_per_epoch = max(1, schedule["iterations"] // 5)  # nnU-Net's own share
    trainer.save_every = max(1, schedule["epochs"] // 10)
    results = Path(trainer.output_folder)
    final, latest = results / "checkpoint_final.pth", results / "checkpoint_latest.pth"
    if final.is_file() or latest.is_file():
        trainer.load_checkpoint(str(final if final.is_file() else latest))
        sow(1000 * options.seed + trainer.current_epoch)  # as no random state is kept, and other patches shall follow
    if not final.is_file():
        trainer.run_training()
    began = time.process_time()
    predict(trainer, folder, options.mirror)

    epochs = json.loads(trainer.epochs_file.read_text())
    told = {
        "trainer": trainer_class.__mro__[2].__name__,
        "steps": schedule["epochs"] * schedule["iterations"],
        "minutes": sum(epoch["cpu_seconds"] for epoch in epochs) / 60,
        "wall_minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
        "prediction_minutes": (time.process_time() - began) / 60,
        "peak_gigabytes": gigabytes(),
        "parameters": sum(weights.numel() for weights in trainer.network.parameters()),
        "rate": trainer.initial_lr,
        "threads": options.threads,
        "bfloat16": options.bfloat16,
        "epochs_log": epochs,
        "versions": {name: version(name) for name in ("nnunetv2", "torch", "batchgeneratorsv2", "numpy")},
    }
    write(folder / "nnunet.json", {**schedule, **told})


def plan_and_preprocess(memory: float) -> dict[str, Any]:
    """Let nnU-Net plan, and write the preprocessed cases; returns what it planned."""
    os.environ[PROCESSES] = "1"  # its planner takes this for torch's threads, of which there must be some
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


def sow(seed: int) -> None:
    """Fix all that is drawn from here on."""
    for fix in (random.seed, np.random.seed, torch.manual_seed):
        fix(seed)


def schedule_of(steps: int) -> dict[str, int]:
    """Epochs and the steps of each, so that no more than `steps` are made in about `EPOCHS` epochs."""
    iterations = max(1, steps // EPOCHS)
    return {"epochs": steps // iterations, "iterations": iterations}


class Timed:
    """What a trainer of nnU-Net's is given: a log of what its steps take; bfloat16; no more files than are used."""

    bfloat16: bool
    epochs_file: Path
    log: list[dict[str, float]]

    def initialize(self) -> None:
        super().initialize()
        if self.bfloat16:
            self.network.forward = in_bfloat16(self.network.forward)

    def on_train_start(self) -> None:
        super().on_train_start()
        known = json.loads(self.epochs_file.read_text()) if self.current_epoch else []
        self.log = known[: self.current_epoch]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._began = time.monotonic(), time.process_time()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        seconds, worked = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        self.log.append({"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3)})
        super().on_train_epoch_end(train_outputs)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        logged = {"loss": "train_losses", "val_loss": "val_losses", "pseudo_dice": "mean_fg_dice", "rate": "lrs"}
        self.log[-1] |= {name: float(self.logger.get_value(key, -1)) for name, key in logged.items()}
        write(self.epochs_file, self.log)

    def save_checkpoint(self, filename: str) -> None:
        """The last weights are those used, as nnU-Net itself does; the best on crops of the validation cases aren't."""
        if not filename.endswith("checkpoint_best.pth"):
            super().save_checkpoint(filename)

    def plot_network_architecture(self) -> None:
        """Not drawn; a picture after every epoch isn't either (see `make_trainer`)."""


def in_bfloat16(forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """A network's forward pass, computed in bfloat16 by weights in float32 and told in float32.

    nnU-Net does so in float16 where there is a GPU; on a CPU it would take float32 alone.
    """

    def run(patches: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            found = forward(patches)
        return [level.float() for level in found] if isinstance(found, list | tuple) else found.float()

    return run


class Mirroring(Timed, nnUNetTrainer):
    """nnU-Net as it comes."""


class NotMirroring(Timed, nnUNetTrainerNoMirroring):
    """nnU-Net's own variant without mirror images."""


def make_trainer(trainer_class: type[Timed], preprocessed: Path) -> Any:
    """A trainer with weights of its own, on the CPU."""
    os.environ[PROCESSES] = "0"  # patches are cut and augmented in this process, so that its time holds all
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = trainer_class(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.logger.plot_progress_png = lambda folder: None
    return trainer


def time_steps(make: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds of one step, reading and augmenting included, and the memory in GB that the process took so far."""
    trainer, times = make(), []
    trainer.on_train_start()
    trainer.network.train()
    while len(times) < WARM_UP + STEPS and sum(times) < PATIENCE:
        began = time.process_time()
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.process_time() - began)
    counted = times[WARM_UP:] or times[-1:]
    return sum(counted) / len(counted), gigabytes()


def predict(trainer: Any, folder: Path, mirror: bool) -> None:
    """Write the probabilities of every validation and test case that isn't predicted yet."""
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
    wanted = [raw / "imagesTr" / name for name in json.loads((raw / "splits_final.json").read_text())[0]["val"]]
    wanted += sorted({raw / "imagesTs" / file.name[:-12] for file in (raw / "imagesTs").iterdir()})
    channels = range(len(trainer.dataset_json["channel_names"]))
    for case in wanted:
        if not (out / f"{case.name}.nii.gz").is_file():  # which is written after the probabilities
            files = [f"{case}_{channel:04d}.nii.gz" for channel in channels]
            predictor.predict_from_files_sequential([files], [str(out / f"{case.name}")], save_probabilities=True)


def gigabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # told in KiB


def write(file: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(file)


if __name__ == "__main__":
    main()

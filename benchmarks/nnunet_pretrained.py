"""Load an encoder pre-trained by voxmim into nnU-Net, compare the features, and fine-tune.

    voxmim pretrain store pretrained --set resenc.blocks=[1,1,2,2,2]
    python benchmarks/nnunet_pretrained.py pretrained RAW/Dataset004_Hippocampus OUT --epochs 3 --iterations 5

It needs an environment with both packages (`pip install -e . nnunetv2==2.8.1`). It exports the encoder, and nnU-Net
plans and preprocesses the dataset with the network, patch size and spacing of the pre-training. nnU-Net loads the
weights with `nnunetv2.run.load_pretrained_weights`, which `nnUNetv2_train -pretrained_weights` calls and which needs a
decoder too, and with `PretrainedTrainer.load_pretrained_weights`, if available: it is in nnU-Net's repository, but not
in releases up to 2.8.1. For each, the features of a random volume are compared with voxmim's. Then nnU-Net trains from
these weights and from scratch for --epochs epochs. All results are written to OUT/result.json.
"""

import argparse
import json
import os
import random
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmim import api

CONFIGURATION, PLANS = "3d_fullres", "voxmimPlans"
TRAINER = "nnunetv2.training.nnUNetTrainer.pretraining.pretrainedTrainer"
TOLERANCE = 1e-5
FOLDERS = ("raw", "preprocessed", "results")


def main() -> None:
    """Export and load the weights, compare the features, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="pre-training run with a resenc encoder")
    parser.add_argument("raw", type=Path, help="raw dataset of nnU-Net, DatasetNNN_NAME")
    parser.add_argument("out", type=Path, help="new output folder")
    parser.add_argument("--epochs", type=int, default=3, help="0 only compares the features (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=5, help="steps per epoch (nnU-Net: 250; default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True)
    set_folders(out, options.raw)
    weights = out / "pretrained.pth"
    print(api.export_weights(options.run, weights, to="nnunet").usage)
    checkpoint = torch.load(weights, weights_only=True)
    complete = with_decoder(checkpoint, out / "complete.pth")
    differences = compare(options.run, checkpoint, weights, complete)
    print(json.dumps(differences, indent=1))
    dice = {}
    if options.epochs:
        plans = plan_and_preprocess(out, options.raw.name, checkpoint)
        for start, file in (("pretrained", complete), ("scratch", None)):
            dice[start] = train(
                plans, options.raw.name, file, options.epochs, options.iterations, options.seed, out / start
            )
    versions = {name: version(name) for name in ("voxmim", "nnunetv2", "torch", "dynamic_network_architectures")}
    result = {"largest_difference": differences, "mean_dice_of_epochs": dice, "versions": versions}
    (out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    assert max(differences.values()) <= TOLERANCE, f"features differ by more than {TOLERANCE}"


def set_folders(out: Path, raw: Path) -> None:
    """Set the environment variables of nnU-Net, which it reads when imported."""
    for name in FOLDERS:
        (out / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str((out / name).resolve())
    (out / "raw" / raw.name).symlink_to(raw.resolve())
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}


def plan_and_preprocess(out: Path, name: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Plan and preprocess with the network, patch size and spacing of the pre-training."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    number = int(name[7:10])
    extract_fingerprints([number], num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    plans, _ = plan_experiment_dataset(number)
    adaptation = checkpoint["nnssl_adaptation_plan"]
    architecture = adaptation["architecture_plans"]
    (pretraining,) = adaptation["pretrain_plan"]["configurations"].values()
    configuration = plans["configurations"][CONFIGURATION]
    configuration |= {
        "patch_size": pretraining["patch_size"],
        "spacing": pretraining["spacing"],
        "normalization_schemes": pretraining["normalization_schemes"],
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "batch_size": 2,
        "architecture": {
            "network_class_name": architecture["arch_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "_kw_requires_import": architecture["arch_kwargs_requiring_import"],
        },
    }
    plans = {**plans, "plans_name": PLANS, "configurations": {CONFIGURATION: configuration}}
    file = out / "preprocessed" / name / f"{PLANS}.json"
    file.write_text(json.dumps(plans, indent=1, default=lambda value: value.item()))
    preprocess_dataset(number, PLANS, [CONFIGURATION], [1], show_progress_bar=False)
    return json.loads(file.read_text())


def build_network(checkpoint: dict[str, Any], outputs: int = 3) -> Any:
    """Build the network of the plan with nnU-Net."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    adaptation = checkpoint["nnssl_adaptation_plan"]
    architecture, channels = adaptation["architecture_plans"], adaptation["pretrain_num_input_channels"]
    return get_network_from_plans(
        architecture["arch_class_name"], architecture["arch_kwargs"], architecture["arch_kwargs_requiring_import"],
        channels, outputs, deep_supervision=True,
    )  # fmt: skip


def with_decoder(checkpoint: dict[str, Any], file: Path) -> Path:
    """Save the checkpoint with a newly initialised decoder, without which nnU-Net's releases do not load it.

    nnU-Net's decoder contains the encoder as a submodule, so the encoder's weights are saved under both names.
    """
    encoder = checkpoint["network_weights"]
    decoder = {f"decoder.{name}": tensor for name, tensor in encoder.items()}
    torch.save({"network_weights": build_network(checkpoint).state_dict() | encoder | decoder}, file)
    return file


def compare(run: Path, checkpoint: dict[str, Any], weights: Path, complete: Path) -> dict[str, float]:
    """Largest absolute difference from voxmim's features for each way to load; nnU-Net's axes are (z, y, x)."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    encoder: Any = api.load_encoder(run)
    volume = torch.randn(1, encoder.channels, *encoder.metadata["crop"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder.maps(volume)
    shifted = (volume - encoder.settings.pad_value).permute(0, 1, 4, 3, 2)

    def largest_difference(network: Any) -> float:
        with torch.no_grad():
            actual = [features.permute(0, 1, 4, 3, 2) for features in network.eval().encoder(shifted)]
        return max(float((a - b).abs().max()) for a, b in zip(expected, actual, strict=True))

    network = build_network(checkpoint)
    load_pretrained_weights(network, str(complete))
    differences = {"nnunetv2.run.load_pretrained_weights": largest_difference(network)}
    if find_spec(TRAINER.rpartition(".")[0]) is not None:
        from nnunetv2.training.nnUNetTrainer.pretraining.pretrainedTrainer import PretrainedTrainer

        plan, channels, patch = checkpoint["nnssl_adaptation_plan"], encoder.channels, encoder.metadata["crop"][::-1]
        network, _ = PretrainedTrainer.load_pretrained_weights(
            build_network(checkpoint), str(weights), channels, channels, patch, patch, plan["key_to_encoder"],
            plan["key_to_stem"], tuple(plan["keys_to_in_proj"]), plan["key_to_lpe"],
        )  # fmt: skip
        differences["PretrainedTrainer.load_pretrained_weights"] = largest_difference(network)
    return differences


def train(
    plans: dict[str, Any], name: str, weights: Path | None, epochs: int, iterations: int, seed: int, out: Path
) -> list[float]:
    """Train with nnU-Net; returns the mean foreground Dice of each epoch on crops of its validation cases."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    dataset = out.parent / "raw" / name / "dataset.json"
    plans = plans | {"continue_training": False}  # nnU-Net expects this key in the plans
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, json.loads(dataset.read_text()), device=torch.device("cpu"))
    trainer.output_folder = trainer.output_folder_base = str(out)
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = max(1, iterations // 2)
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    if weights is not None:
        load_pretrained_weights(trainer.network, str(weights))
    trainer.run_training()
    return [round(float(trainer.logger.get_value("mean_fg_dice", epoch)), 4) for epoch in range(epochs)]


if __name__ == "__main__":
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    main()

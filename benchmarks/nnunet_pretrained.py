"""nnU-Net goes on from an encoder that voxmim pre-trained: what it loads, whether it computes the same, what it learns.

    voxmim pretrain store pretrained --set resenc.blocks=[1,1,2,2,2]
    python benchmarks/nnunet_pretrained.py pretrained RAW/Dataset004_Hippocampus OUT --epochs 3 --iterations 5

Run it where both are installed (`pip install -e . nnunetv2==2.8.1`). The encoder is exported; nnU-Net plans and
preprocesses the data set, with the network, patch and spacing of the pre-training. The weights are loaded by
what that nnU-Net has: `PretrainedTrainer.load_pretrained_weights`, which is in its repository but in no release up to
2.8.1, and `nnunetv2.run.load_pretrained_weights`, which `nnUNetv2_train -pretrained_weights` calls and which wants a
decoder, too. With each, features of a random volume are compared with voxmim's. Then nnU-Net trains from these weights
and from scratch, for as many epochs as it is given. OUT/result.json has everything.
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
    """Export, plan, load, compare, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a pre-training of a resenc")
    parser.add_argument("raw", type=Path, help="a data set in nnU-Net's layout, DatasetNNN_NAME")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--epochs", type=int, default=3, help="0 only compares the features")
    parser.add_argument("--iterations", type=int, default=5, help="of an epoch; nnU-Net itself takes 250")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True)
    use_folders(out, options.raw)
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
            how = options.epochs, options.iterations, options.seed
            dice[start] = train(plans, options.raw.name, file, *how, out / start)
    versions = {name: version(name) for name in ("voxmim", "nnunetv2", "torch", "dynamic_network_architectures")}
    result = {"largest_difference": differences, "mean_dice_of_epochs": dice, "versions": versions}
    (out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    assert max(differences.values()) <= TOLERANCE, f"features differ by more than {TOLERANCE}"


def use_folders(out: Path, raw: Path) -> None:
    """Where nnU-Net reads and writes; it looks when it is imported."""
    for name in FOLDERS:
        (out / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str((out / name).resolve())
    (out / "raw" / raw.name).symlink_to(raw.resolve())
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}


def plan_and_preprocess(out: Path, name: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's plan of the data set, with the pre-training's network, patch and spacing."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    number = int(name[7:10])
    extract_fingerprints([number], num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    plans, _ = plan_experiment_dataset(number)
    ours = checkpoint["nnssl_adaptation_plan"]
    architecture, (pretraining,) = ours["architecture_plans"], ours["pretrain_plan"]["configurations"].values()
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
    file.write_text(json.dumps(plans, indent=1, default=lambda number: number.item()))
    preprocess_dataset(number, PLANS, [CONFIGURATION], [1], show_progress_bar=False)
    return json.loads(file.read_text())


def network_of(checkpoint: dict[str, Any], outputs: int = 3) -> Any:
    """The network of the plan, as nnU-Net builds it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    ours = checkpoint["nnssl_adaptation_plan"]
    architecture, channels = ours["architecture_plans"], ours["pretrain_num_input_channels"]
    return get_network_from_plans(
        architecture["arch_class_name"], architecture["arch_kwargs"], architecture["arch_kwargs_requiring_import"],
        channels, outputs, deep_supervision=True,
    )  # fmt: skip


def with_decoder(checkpoint: dict[str, Any], file: Path) -> Path:
    """The checkpoint with nnU-Net's fresh decoder, without which its releases load nothing.

    The decoder lists the encoder's tensors again, and those are loaded last.
    """
    encoder = checkpoint["network_weights"]
    again = {f"decoder.{name}": tensor for name, tensor in encoder.items()}
    torch.save({"network_weights": network_of(checkpoint).state_dict() | encoder | again}, file)
    return file


def compare(run: Path, checkpoint: dict[str, Any], weights: Path, complete: Path) -> dict[str, float]:
    """The largest difference of a feature to voxmim's, by what loaded the weights; nnU-Net's axes are (z, y, x)."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    encoder: Any = api.load_encoder(run)
    volume = torch.randn(1, encoder.channels, *encoder.metadata["crop"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder.maps(volume)
    shifted = (volume - encoder.settings.pad_value).permute(0, 1, 4, 3, 2)

    def largest(network: Any) -> float:
        with torch.no_grad():
            found = [features.permute(0, 1, 4, 3, 2) for features in network.eval().encoder(shifted)]
        return max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))

    network = network_of(checkpoint)
    load_pretrained_weights(network, str(complete))
    differences = {"nnunetv2.run.load_pretrained_weights": largest(network)}
    if find_spec(TRAINER.rpartition(".")[0]) is not None:
        from nnunetv2.training.nnUNetTrainer.pretraining.pretrainedTrainer import PretrainedTrainer

        plan, channels, patch = checkpoint["nnssl_adaptation_plan"], encoder.channels, encoder.metadata["crop"][::-1]
        network, _ = PretrainedTrainer.load_pretrained_weights(
            network_of(checkpoint), str(weights), channels, channels, patch, patch, plan["key_to_encoder"],
            plan["key_to_stem"], tuple(plan["keys_to_in_proj"]), plan["key_to_lpe"],
        )  # fmt: skip
        differences["PretrainedTrainer.load_pretrained_weights"] = largest(network)
    return differences


def train(
    plans: dict[str, Any], name: str, weights: Path | None, epochs: int, iterations: int, seed: int, out: Path
) -> list[float]:
    """Mean Dice of the foreground after each epoch, on crops of nnU-Net's validation cases."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    for fix in (random.seed, np.random.seed, torch.manual_seed):
        fix(seed)
    raw = out.parent / "raw" / name / "dataset.json"
    own = plans | {"continue_training": False}  # which nnU-Net takes out of the plans
    trainer = nnUNetTrainer(own, CONFIGURATION, 0, json.loads(raw.read_text()), device=torch.device("cpu"))
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

"""Training steps on a GPU, compared with MONAI's networks; bf16, fused AdamW and torch.compile on both sides.

``benchmarks/gpu.sh`` runs it in under ten minutes. Batch sizes are set for 80 GB and scaled with the GPU's memory.
Without a GPU, --smoke runs everything at toy size, except torch.compile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.commands import time_command
from benchmarks.crops import PER_SCAN, WINDOW, crop_work, make_scans
from benchmarks.networks import VIT_B, VIT_TOY, WIDTHS, WIDTHS_TOY, unet_pair, unetr_pair
from benchmarks.timing import Report, alternate, bf16_flops, count_flops, peak_memory, training_step
from voxmim.networks.build import build_encoder
from voxmim.networks.patches import patchify
from voxmim.networks.precision import working_dtype
from voxmim.networks.resenc import ResEncSettings
from voxmim.networks.vit import ViTSettings
from voxmim.pretext.build import build_pretext
from voxmim.pretext.mae import MAESettings
from voxmim.settings import MaskSettings, Training, Triple
from voxmim.store.crops import CropPlan, Crops
from voxmim.store.format import Store
from voxmim.training.optimiser import make_optimiser

CLASSES, SECONDS = 14, 420  # no row starts later than this, to stay under ten minutes
Loss = Callable[[nn.Module], Tensor]
Side = tuple[nn.Module, Loss]


def measure(report: Report, rounds: int, smoke: bool) -> None:
    """Time steps of each network, then crops of a store and a whole command."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.monotonic()
    scale = torch.cuda.get_device_properties(0).total_memory / 80e9 if device == "cuda" else 0.0
    peak_flops = bf16_flops(device, 8192 if device == "cuda" else 256)
    report.figure("bf16 product", peak_flops / 1e12, "TFLOP/s", "best of five")
    for row, (batch, make) in rows(smoke, device).items():
        if time.monotonic() - start > SECONDS:
            report.figure(row, 0.0, "", "skipped: no time left")
            continue
        measure_row(report, row, max(1, int(batch * scale)), make, rounds, peak_flops)
    measure_command(report, smoke)


def measure_row(
    report: Report, row: str, batch: int, make: Callable[[int], dict[str, Side]], rounds: int, peak_flops: float
) -> None:
    """Time both sides of a row; without enough memory, the row is reported as skipped."""
    sides, networks = {}, make(batch)
    dtype = working_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"), "bf16")
    for name, (network, loss) in networks.items():
        optimiser = make_optimiser(network, Training(), (0.9, 0.95))
        on_gpu = next(network.parameters()).is_cuda
        compiled: Any = torch.compile(network) if on_gpu else network
        sides[name] = training_step(network, optimiser, partial(loss, compiled), dtype)
    try:
        seconds = alternate(sides, rounds, warm_up=2)
        uncompiled = training_step(network, optimiser, partial(loss, network), dtype)
        used = count_flops(uncompiled) / min(seconds["ours"]) / peak_flops
        peaks = {name: peak_memory(step) for name, step in sides.items()}
    except torch.cuda.OutOfMemoryError:
        report.figure(row, 0.0, "", f"skipped: batch {batch} does not fit into memory")
        return
    note = f"batch {batch}; peak {peaks['theirs']:.1f} and {peaks['ours']:.1f} GiB; {used:.0%} of the rate"
    report.ratio(row, seconds["theirs"], seconds["ours"], f"{note}; {1 / min(seconds['ours']):.2f} steps/s")


def rows(smoke: bool, device: str) -> dict[str, tuple[int, Callable[[int], dict[str, Side]]]]:
    """For each row, the batch size for 80 GB and a function that builds both sides."""
    if smoke:
        small: Triple = (32, 32, 32)
        return {
            "MAE ViT": (2, lambda batch: mae_sides(VIT_TOY, small, batch, device)),
            "U-Net MAE": (2, lambda batch: unet_mae_sides(WIDTHS_TOY, small, batch, device)),
            "UNETR": (2, lambda batch: labelled_sides(unetr_pair(VIT_TOY, small, CLASSES), small, batch, device)),
        }
    patch8, crop = ViTSettings((8, 8, 8)), (96, 96, 96)
    return {
        "MAE ViT-B 96^3 p16": (256, lambda batch: mae_sides(VIT_B, crop, batch, device)),
        "MAE ViT-B 96^3 p8": (32, lambda batch: mae_sides(patch8, crop, batch, device)),
        "UNETR 96^3": (8, lambda batch: labelled_sides(unetr_pair(VIT_B, crop, CLASSES), crop, batch, device)),
        "U-Net 96^3": (8, lambda batch: labelled_sides(unet_pair(WIDTHS, crop, CLASSES), crop, batch, device)),
        "U-Net MAE 96^3": (8, lambda batch: unet_mae_sides(WIDTHS, crop, batch, device)),
        "MAE ViT-B 128^3 p16": (128, lambda batch: mae_sides(VIT_B, (128, 128, 128), batch, device)),
        "MAE ViT-B 128^3 p8": (12, lambda batch: mae_sides(patch8, (128, 128, 128), batch, device)),
    }


def mae_sides(vit: ViTSettings, crop: Triple, batch: int, device: str) -> dict[str, Side]:
    """MONAI's masked autoencoder and ours; both sample the masks in the step."""
    from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

    mae = MAESettings() if vit.width == VIT_B.width else MAESettings(48, 1, 2)
    theirs = MaskedAutoEncoderViT(
        1, crop, vit.patch, hidden_size=vit.width, mlp_dim=4 * vit.width, num_layers=vit.depth, num_heads=vit.heads,
        masking_ratio=0.75, decoder_hidden_size=mae.decoder_width, decoder_mlp_dim=4 * mae.decoder_width,
        decoder_num_layers=mae.decoder_depth, decoder_num_heads=mae.decoder_heads,
        pos_embed_type="learnable", decoder_pos_embed_type="learnable",
    ).to(device)  # fmt: skip
    # MONAI writes the encodings into its mask tokens, which autocast leaves in float32.
    theirs.decoder_embed.register_forward_hook(lambda _module, _inputs, output: output.float())
    volume, seeds = torch.rand(batch, 1, *crop, device=device), torch.arange(batch)

    def their_loss(network: nn.Module) -> Tensor:
        prediction, mask = network(volume)
        error = (prediction.float() - patchify(volume, vit.patch)).abs().mean(-1)
        return (error * mask).sum() / mask.sum()

    ours = build_pretext("mae", mae, MaskSettings(), build_encoder(vit, 1, crop)).to(device)
    return {"theirs": (theirs, their_loss), "ours": (ours, pretext_loss(ours, volume, seeds))}


def unet_mae_sides(widths: tuple[int, ...], crop: Triple, batch: int, device: str) -> dict[str, Side]:
    """MONAI's DynUNet predicting masked voxels, and our MAE with a U-Net."""
    theirs = unet_pair(widths, crop, 1)[0].to(device)
    volume, seeds = torch.rand(batch, 1, *crop, device=device), torch.arange(batch)
    settings = ResEncSettings(widths, (1,) * len(widths))
    ours = build_pretext("mae", MAESettings(), MaskSettings(), build_encoder(settings, 1, crop)).to(device)
    masked = torch.rand_like(volume) < 0.75

    def their_loss(network: nn.Module) -> Tensor:
        error = (network(volume.masked_fill(masked, 0)).float() - volume).abs()
        return (error * masked).sum() / masked.sum()

    return {"theirs": (theirs, their_loss), "ours": (ours, pretext_loss(ours, volume, seeds))}


def pretext_loss(pretext: Any, volume: Tensor, seeds: Tensor) -> Loss:
    """Loss of a pretext as a function of the network, which may be the compiled pretext."""
    return lambda network: network(*pretext.inputs(volume, seeds)).loss


def labelled_sides(pair: tuple[nn.Module, nn.Module], crop: Triple, batch: int, device: str) -> dict[str, Side]:
    """Two segmentors with cross-entropy loss."""
    volume = torch.rand(batch, 1, *crop, device=device)
    label = torch.randint(0, CLASSES, (batch, *crop), device=device)

    def loss(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(volume).float(), label)

    return {name: (network.to(device), loss) for name, network in zip(("theirs", "ours"), pair, strict=True)}


def measure_command(report: Report, smoke: bool) -> None:
    """Crops per second from a store, and how long the steps of a command wait for crops."""
    with tempfile.TemporaryDirectory() as name:
        folder, scans, size = Path(name), 4 if smoke else 16, 16 if smoke else 96
        make_scans(folder, scans, (40, 32, 28) if smoke else (200, 160, 140))
        store = Store(folder / "store")
        crops = Crops(store, store.in_split("train"), CropPlan((size,) * 3, WINDOW, 0, PER_SCAN))  # type: ignore[arg-type]
        count = scans * PER_SCAN
        seconds = alternate({"crops": crop_work(crops, count)}, 3)["crops"]
        report.figure("crops, one thread", count / min(seconds), "crops/s")
        options = ["--recipe", "mae-btcv", "--precision", "bf16", "--compile", "--steps", "60", "--batch", "64"]
        if smoke:
            options = ["--recipe", "tiny", "--steps", "4", "--batch", "2"]
        times = time_command(["pretrain", *options], folder / "store", folder / "run")
        training = times["steps"] + times["waiting"]
        report.figure("pretrain, steps wait for crops", 100 * times["waiting"] / training, "%", "of steps and waiting")

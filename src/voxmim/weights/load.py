"""Loading weights into a network: what fits is copied or adapted, and every tensor is accounted for."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from voxmim.console import CONSOLE, plain, table
from voxmim.errors import WeightsError
from voxmim.networks.build import (
    Encoder,
    Segmentor,
    build_encoder,
    build_segmentor,
    described_encoder,
    described_inputs,
    has_patch_setting,
)
from voxmim.networks.classifier import Classifier, Regressor
from voxmim.networks.patches import Triple
from voxmim.settings import UNETRSettings
from voxmim.weights.adapt import Inputs, adapt
from voxmim.weights.files import read_weights

MIN_FRACTION = 0.9  # of an encoder's parameters; with fewer loaded, it is hardly the encoder that was pre-trained
_SHOWN = 3  # names of many


@dataclass
class LoadReport:
    """What happened to each tensor of a file and of the network that it was loaded into.

    Attributes:
        loaded: tensors copied as they are.
        adapted: tensors that were changed to fit, and how.
        renamed: tensors copied from another name, and that name.
        missing: tensors of the network that the file lacks or has in another shape; they keep their initial values.
        unused: tensors of the file that the network has no place for.
        fraction: of the network's parameters that were loaded, adapted or renamed, 0..1.
        warnings: what else to know about these weights, one sentence each.
        outputs: which labels or classes go on, are new, or are no longer learned; empty for an encoder.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    fraction: float = 0.0
    warnings: list[str] = field(default_factory=list)
    outputs: str = ""

    def rows(self) -> list[list[str]]:
        """The report as a table: what happened, to how many tensors, to which."""
        which = {
            "loaded": (self.loaded, []),
            "adapted": (self.adapted, [f"{name}: {how}" for name, how in self.adapted.items()]),
            "renamed": (self.renamed, [f"{theirs} to {ours}" for ours, theirs in self.renamed.items()]),
            "missing": (self.missing, [f"{name}: {shapes}" for name, shapes in self.missing.items()]),
            "unused": (self.unused, self.unused),
        }
        rows = [[what, str(len(names)), _first(examples)] for what, (names, examples) in which.items()]
        outputs = [["labels", "", self.outputs]] if self.outputs else []
        return [*rows, *outputs, ["fraction of the encoder", f"{self.fraction:.1%}", ""]]

    def __str__(self) -> str:
        counts = [row for row in self.rows() if row[1].isdigit()]
        parts = [f"{count} {what}" + (f" ({which})" if which else "") for what, count, which in counts if count != "0"]
        outputs = f"; labels {self.outputs}" if self.outputs else ""
        return f"tensors: {', '.join(parts) or 'none'}; {self.fraction:.1%} of the encoder's parameters{outputs}"

    def show(self, origin: Path) -> None:
        """Print the table and the warnings."""
        table(f"Weights from {origin}", ["", "tensors", "which"], self.rows())
        for warning in self.warnings:
            CONSOLE.print(plain(warning), style="yellow", soft_wrap=True)


def load_into(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    origin: str,
    min_fraction: float = MIN_FRACTION,
    prefix: str = "",
    inputs: tuple[Inputs, Inputs] | None = None,
) -> LoadReport:
    """Copy what fits into a network.

    Args:
        network: gets the weights.
        tensors: those of a file.
        origin: the file, for the error.
        min_fraction: of the network's parameters that must be found.
        prefix: of the wanted tensors in the file, such as ``encoder.``.
        inputs: what an encoder takes in, in the file and in the network; the weights are adapted from one to the other.

    Raises:
        WeightsError: fewer parameters fit.
    """
    report, state = LoadReport(), network.state_dict()
    offered = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if inputs is not None:
        try:
            assert isinstance(network, Encoder)
            offered, report.adapted = adapt(offered, *inputs, kernels=network.input_weights)
        except ValueError as error:
            raise WeightsError(f"{origin}: {error}, which contradicts its metadata; write the file again.") from None
    report.unused = sorted(set(offered) - set(state))
    found = 0
    for name, tensor in state.items():
        source = offered.get(name)
        if source is None or source.shape != tensor.shape:
            have = "not in the file" if source is None else f"{tuple(source.shape)} in the file"
            report.missing[name] = f"{have}, {tuple(tensor.shape)} in the network"
            report.adapted.pop(name, None)
            continue
        if name not in report.adapted:
            report.loaded.append(name)
        tensor.copy_(source)
        found += tensor.numel()
    report.fraction = found / max(1, sum(tensor.numel() for tensor in state.values()))
    if report.fraction < min_fraction:
        misfits = "; ".join(f"{name}: {shapes}" for name, shapes in list(report.missing.items())[:_SHOWN])
        raise WeightsError(
            f"{origin}: only {report.fraction:.0%} of the network's parameters fit, and the first that do not are "
            f"{misfits}; use the recipe that the weights were trained with."
        )
    return report


def encoder_from(metadata: Mapping[str, Any]) -> Encoder:
    """The encoder that a file's metadata describes, without its weights."""
    x, y, z = metadata["crop"]
    return build_encoder(described_encoder(metadata)[1], len(described_inputs(metadata)), (x, y, z))


def load_encoder(
    path: Path | str,
    crop: Triple | None = None,
    patch: Triple | None = None,
    channels: Sequence[str] | None = None,
) -> Encoder:
    """The encoder of a pre-training, to be put into another network.

    Args:
        path: a run folder or an ``encoder.safetensors``.
        crop: voxels of a crop along X, Y, Z, to which learned positions are interpolated; None keeps that of the file.
        patch: voxels of a patch along X, Y, Z, to which the kernel is resized (ViT and Swin); None keeps it.
        channels: the name of each channel of the scans; an unknown name gets the mean of the known ones. None keeps
            those of the file.

    Returns:
        the network in evaluation mode; ``encoder.encode(volume)`` turns (B, C, X, Y, Z) into a feature map
        (B, width, x, y, z). Its attribute ``metadata`` says how scans must be prepared (spacing, intensity, window,
        crop, channels).

    Raises:
        WeightsError: the file is missing or holds no encoder, or does not allow this crop or patch.
    """
    tensors, metadata = read_weights(Path(path), "encoder")
    wanted = copy.deepcopy(metadata)
    kind = metadata.get("encoder", "vit")
    if patch is not None:
        if not has_patch_setting(described_encoder(metadata)[1]):
            raise WeightsError(f"{path}: the encoder {kind} has no patch that could be resized; leave out patch.")
        wanted[kind]["patch"] = list(patch)
    wanted["crop"] = list(crop or metadata["crop"])
    if channels is not None:
        wanted["inputs"] = wanted["preparation"]["channels"] = list(channels)
    new = Inputs.described(wanted)
    if any(c < p or c % p for c, p in zip(wanted["crop"], new.patch, strict=True)):
        raise WeightsError(f"{path}: the crop {tuple(wanted['crop'])} is not a multiple of the patch {new.patch}.")
    encoder = encoder_from(wanted)
    load_into(encoder, tensors, str(path), min_fraction=1.0, inputs=(Inputs.described(metadata), new))
    encoder.metadata = wanted  # type: ignore[assignment]
    return encoder.eval()


def load_segmentor(path: Path | str) -> tuple[Segmentor, dict[str, Any]]:
    """The segmentor of a fine-tuning in evaluation mode, and its metadata.

    Raises:
        WeightsError: the file is missing or holds no segmentor.
    """
    tensors, metadata = read_weights(Path(path), "segmentor")
    outputs = metadata.get("values", range(max(map(int, metadata["labels"])) + 1))  # see Structures.from_metadata
    classes = len(metadata.get("regions", ())) or len(outputs)
    network = build_segmentor(encoder_from(metadata), UNETRSettings(**metadata["unetr"]), classes)
    load_into(network, tensors, str(path), min_fraction=1.0)
    return network.eval(), metadata


def load_classifier(path: Path | str) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of a fine-tuning in evaluation mode, and its metadata.

    Raises:
        WeightsError: the file is missing or holds no classifier.
    """
    tensors, metadata = read_weights(Path(path), "classifier")
    network = Classifier(encoder_from(metadata), len(metadata["classes"]))
    load_into(network, tensors, str(path), min_fraction=1.0)
    return network.eval(), metadata


def load_regressor(path: Path | str) -> tuple[Regressor, dict[str, Any]]:
    """The regressor of a fine-tuning in evaluation mode, and its metadata.

    Raises:
        WeightsError: the file is missing or holds no regressor.
    """
    tensors, metadata = read_weights(Path(path), "regressor")
    network = Regressor(encoder_from(metadata))
    load_into(network, tensors, str(path), min_fraction=1.0)
    return network.eval(), metadata


def _first(names: list[str]) -> str:
    return "; ".join(names[:_SHOWN]) + ("; ..." if len(names) > _SHOWN else "")

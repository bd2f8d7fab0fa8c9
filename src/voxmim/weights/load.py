"""Loading weights into a network: what fits is copied or adapted, and every tensor is accounted for."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from voxmim.console import CONSOLE, plain, table
from voxmim.errors import WeightsError
from voxmim.networks.build import (
    Encoder,
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
from voxmim.weights.files import kind_of, read_weights

MIN_FRACTION = 0.9  # of an encoder's parameters; with fewer loaded, it is hardly the encoder that was pre-trained
_SHOWN = 3  # names of many


@dataclass
class LoadReport:
    """What happened to each tensor of a file and of the network that it was loaded into."""

    loaded: list[str] = field(default_factory=list)  # copied as they are
    adapted: dict[str, str] = field(default_factory=dict)  # changed to fit, and how
    renamed: dict[str, str] = field(default_factory=dict)  # copied from another name, and that name
    missing: dict[str, str] = field(default_factory=dict)  # not in the file, or in another shape: they stay fresh
    unused: list[str] = field(default_factory=list)  # tensors of the file that the network has no place for
    fraction: float = 0.0  # of the network's parameters that were loaded, adapted or renamed, 0..1
    warnings: list[str] = field(default_factory=list)  # what else to know about these weights, one sentence each
    outputs: str = ""  # which labels or classes go on, are new, or are no longer learned; empty for an encoder

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
    """Copy into a network what fits of a file's tensors.

    Args:
        network: gets the weights.
        tensors: those of the file.
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
        except RuntimeError as error:
            text = f"{origin}: a tensor's {error}, which contradicts its metadata; write the file again."
            raise WeightsError(text) from None
    copy_fitting(state, offered, report)
    found = sum(tensor.numel() for name, tensor in state.items() if name not in report.missing)
    report.fraction = found / max(1, sum(tensor.numel() for tensor in state.values()))
    if report.fraction < min_fraction:
        misfits = "; ".join(f"{name}: {shapes}" for name, shapes in list(report.missing.items())[:_SHOWN])
        raise WeightsError(
            f"{origin}: only {report.fraction:.0%} of the network's parameters fit, and the first that do not are "
            f"{misfits}; use the recipe that the weights were trained with."
        )
    return report


def copy_fitting(state: Mapping[str, Tensor], offered: Mapping[str, Tensor], report: LoadReport) -> None:
    """Copy tensors of the same name and shape into a network's state; the report gets what happened to each."""
    report.unused += sorted(set(offered) - set(state))
    for name, tensor in state.items():
        source = offered.get(name)
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
            report.loaded += [name] if name not in report.adapted else []
        else:
            have = "not in the file" if source is None else f"{tuple(source.shape)} in the file"
            report.missing[name] = f"{have}, {tuple(tensor.shape)} in the network"
            report.adapted.pop(name, None)


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
    """The encoder of a training in evaluation mode, its metadata as an attribute; see `voxmim.load_encoder`.

    Raises:
        WeightsError: the file is missing or holds no encoder, or does not allow this crop or patch.
    """
    kind = kind_of(Path(path))
    tensors, metadata = read_weights(Path(path), kind)
    wanted = copy.deepcopy(metadata)
    name = metadata.get("encoder", "vit")
    if patch is not None:
        if not has_patch_setting(described_encoder(metadata)[1]):
            raise WeightsError(f"{path}: the encoder {name} has no patch that could be resized; leave out patch.")
        wanted[name]["patch"] = list(patch)
    wanted["crop"] = list(crop or metadata["crop"])
    if channels is not None:
        wanted["inputs"] = wanted["preparation"]["channels"] = list(channels)
    new = Inputs.described(wanted)
    if any(c < p or c % p for c, p in zip(wanted["crop"], new.patch, strict=True)):
        raise WeightsError(f"{path}: the crop {tuple(wanted['crop'])} is not a multiple of the patch {new.patch}.")
    encoder = encoder_from(wanted)
    prefix, inputs = "" if kind == "encoder" else "encoder.", (Inputs.described(metadata), new)
    load_into(encoder, tensors, str(path), min_fraction=1.0, prefix=prefix, inputs=inputs)
    encoder.metadata = wanted  # type: ignore[assignment]
    return encoder.eval()


def load_fine_tuned(path: Path | str, kind: str) -> tuple[Any, dict[str, Any]]:
    """The segmentor, classifier or regressor of a run folder or weights file in evaluation mode, and its metadata.

    Raises:
        WeightsError: the file is missing or holds no such network.
    """
    tensors, metadata = read_weights(Path(path), kind)
    encoder = encoder_from(metadata)
    network: nn.Module
    if kind == "segmentor":
        outputs = metadata.get("values", range(max(map(int, metadata["labels"])) + 1))  # see Structures.from_metadata
        classes = len(metadata.get("regions", ())) or len(outputs)
        network = build_segmentor(encoder, UNETRSettings(**metadata["unetr"]), classes)
    else:
        network = Classifier(encoder, len(metadata["classes"])) if kind == "classifier" else Regressor(encoder)
    load_into(network, tensors, str(path), min_fraction=1.0)
    return network.eval(), metadata


load_segmentor = partial(load_fine_tuned, kind="segmentor")
load_classifier = partial(load_fine_tuned, kind="classifier")
load_regressor = partial(load_fine_tuned, kind="regressor")


def _first(names: list[str]) -> str:
    return "; ".join(names[:_SHOWN]) + ("; ..." if len(names) > _SHOWN else "")

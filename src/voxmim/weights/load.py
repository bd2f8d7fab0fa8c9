"""Loading weights into a network, with a report on every tensor."""

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

MIN_FRACTION = 0.9  # of an encoder's parameters that must be loaded
_SHOWN = 3  # tensors in tables and messages


@dataclass
class LoadReport:
    """What was done with each tensor of a file and of the network that it was loaded into."""

    loaded: list[str] = field(default_factory=list)  # copied
    adapted: dict[str, str] = field(default_factory=dict)  # changed to fit, with a description of the change
    renamed: dict[str, str] = field(default_factory=dict)  # copied from another name in the file
    missing: dict[str, str] = field(default_factory=dict)  # not in the file or of another shape; they stay random
    unused: list[str] = field(default_factory=list)  # tensors of the file that the network does not have
    fraction: float = 0.0  # of the network's parameters that were loaded, adapted or renamed, 0..1
    warnings: list[str] = field(default_factory=list)  # sentences on differences between these weights and the scans
    outputs: str = ""  # the labels or classes that were kept, are new, or are no longer learned; empty for an encoder

    def rows(self) -> list[list[str]]:
        """The report as a table: what was done, the number of tensors, examples."""
        which = {
            "loaded": (self.loaded, []),
            "adapted": (self.adapted, [f"{name}: {how}" for name, how in self.adapted.items()]),
            "renamed": (self.renamed, [f"{old} to {new}" for new, old in self.renamed.items()]),
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
    """Copy the tensors of a file that fit into a network.

    Args:
        network: the network.
        tensors: of the file.
        origin: the file, for error messages.
        min_fraction: of the network's parameters that must be loaded.
        prefix: of the network's tensors in the file, such as ``encoder.``.
        inputs: of the encoder in the file and of the network, if the weights are to be adapted.

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
    fitting = sum(tensor.numel() for name, tensor in state.items() if name not in report.missing)
    report.fraction = fitting / max(1, sum(tensor.numel() for tensor in state.values()))
    if report.fraction < min_fraction:
        misfits = "; ".join(f"{name}: {shapes}" for name, shapes in list(report.missing.items())[:_SHOWN])
        raise WeightsError(
            f"{origin}: only {report.fraction:.0%} of the network's parameters fit, and the first that do not are "
            f"{misfits}; use the recipe that the weights were trained with."
        )
    return report


def copy_fitting(state: Mapping[str, Tensor], offered: Mapping[str, Tensor], report: LoadReport) -> None:
    """Copy tensors of the same name and shape into a network's state, and add them to the report."""
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
    """Build the encoder of a weights file's metadata, with random weights."""
    x, y, z = metadata["crop"]
    return build_encoder(described_encoder(metadata)[1], len(described_inputs(metadata)), (x, y, z))


def load_encoder(
    path: Path | str,
    crop: Triple | None = None,
    patch: Triple | None = None,
    channels: Sequence[str] | None = None,
) -> Encoder:
    """Load the encoder of a training in evaluation mode, with a `metadata` attribute; see `voxmim.load_encoder`.

    Raises:
        WeightsError: the file is missing, has no encoder, or does not allow this crop or patch.
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
    new = Inputs.from_metadata(wanted)
    if any(c < p or c % p for c, p in zip(wanted["crop"], new.patch, strict=True)):
        raise WeightsError(f"{path}: the crop {tuple(wanted['crop'])} is not a multiple of the patch {new.patch}.")
    encoder = encoder_from(wanted)
    prefix, inputs = "" if kind == "encoder" else "encoder.", (Inputs.from_metadata(metadata), new)
    load_into(encoder, tensors, str(path), min_fraction=1.0, prefix=prefix, inputs=inputs)
    encoder.metadata = wanted  # type: ignore[assignment]
    return encoder.eval()


def load_fine_tuned(path: Path | str, kind: str) -> tuple[Any, dict[str, Any]]:
    """Load a segmentor, classifier or regressor in evaluation mode, and its metadata.

    Raises:
        WeightsError: the file is missing or has no such network.
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

"""Weights on disk: safetensors with everything in their metadata that is needed to use them again."""

from __future__ import annotations

import copy
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.files import whole
from voxmim.networks.build import (
    Encoder,
    Segmentor,
    build_encoder,
    build_segmentor,
    described_encoder,
    described_inputs,
)
from voxmim.networks.classifier import Classifier
from voxmim.networks.patches import Triple
from voxmim.settings import UNETRSettings
from voxmim.weights.adapt import described_layout
from voxmim.weights.load import load_into


def save_weights(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a network's weights and metadata in one stroke; versions are added."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    versions = {package: version(package) for package in ("voxmim", "torch", "monai")}
    text = json.dumps({**metadata, "versions": versions})
    with whole(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"voxmim": text}))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that `save_weights` wrote.

    Raises:
        WeightsError: the file is missing, no safetensors file, or not voxmim's.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there are no such weights; give a run folder or a .safetensors file.")
    tensors, metadata = _read_safetensors(path)
    if metadata is None:
        raise WeightsError(
            f"{path}: these weights lack voxmim's metadata; make weights that can be loaded of them with "
            "'voxmim import'."
        )
    return tensors, json.loads(metadata)


def read_foreign(path: Path) -> list[dict[str, Tensor]]:
    """The groups of named tensors of another package's checkpoint, outermost first.

    A pickled checkpoint is read with torch's ``weights_only=True``, which runs no code.

    Args:
        path: a ``.safetensors`` file, or one that `torch.save` wrote.

    Raises:
        WeightsError: the file is missing, no such file, voxmim's own, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; check the path.")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        if metadata is not None:
            raise WeightsError(f"{path}: voxmim wrote these weights; start from them with --init, without an import.")
        return [tensors]
    try:
        with warnings.catch_warnings(action="ignore"):  # on pickles of a kind that torch itself does not write
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", str(error))
        reason = (found[1] or found[2]) if found else "an object of another kind"
        raise WeightsError(
            f"{path}: it holds more than tensors and plain values ({reason}), and reading that could run code that "
            "someone put into it, so it is refused; save the state_dict alone, with "
            "torch.save(network.state_dict(), FILE), in the program that it comes from."
        ) from None
    except Exception as error:  # torch raises many kinds here, none of them documented
        raise WeightsError(
            f"{path}: this is no whole checkpoint that torch can read ({type(error).__name__}); copy it again."
        ) from None
    return list(_tensor_groups(content))


def find_weights(path: Path, kind: str) -> Path:
    """The weights file of a run folder, or the file itself.

    Raises:
        WeightsError: the folder has no such weights; tells what it has.
    """
    if path.is_file():
        return path
    file = path / f"{kind}.safetensors"
    if not file.is_file():
        have = ", ".join(sorted(found.name for found in path.glob("*.safetensors"))) if path.is_dir() else ""
        raise WeightsError(
            f"{path}: there is no {file.name} here{f', but {have}' if have else ''}; "
            f"give the run folder of a {'fine-tuning' if kind in ('segmentor', 'classifier') else 'pre-training'}."
        )
    return file


def encoder_from(metadata: Mapping[str, Any]) -> Encoder:
    """The encoder that a file's metadata describes, without its weights."""
    _, settings = described_encoder(metadata)
    x, y, z = metadata["crop"]
    return build_encoder(settings, len(described_inputs(metadata)), (x, y, z))


def load_encoder(
    path: Path | str,
    crop: Triple | None = None,
    patch: Triple | None = None,
    channels: Sequence[str] | None = None,
) -> Encoder:
    """The encoder of a pre-training, ready to be put into another network.

    Args:
        path: a run folder or an ``encoder.safetensors``.
        crop: voxels of a crop along X, Y, Z to adapt learned positions to; None takes that of the weights.
        patch: voxels of a patch along X, Y, Z to resize the kernel to (ViT and Swin); None takes that of the weights.
        channels: the name of each channel of the scans; a channel that the weights do not know by its name gets the
            mean of theirs. None takes those of the weights.

    Returns:
        the network; ``encoder(volume)`` turns (B, C, X, Y, Z) into a ViT's tokens (B, N, width), or into the deepest
        map (B, width, x, y, z) of a Swin or U-Net, which is what ``encoder.encode(volume)`` gives of each. Its
        attribute ``metadata`` tells what a scan must be like (spacing, intensity, window, crop, channels).

    Raises:
        WeightsError: there are no such weights, they are no encoder's, or the crop or the patch cannot be had of them.
    """
    tensors, metadata = read_kind(Path(path), "encoder")
    wanted = copy.deepcopy(metadata)
    if patch is not None and metadata.get("encoder") == "unet":
        raise WeightsError(f"{path}: a U-Net has no patches that could be resized; leave out patch.")
    if patch is not None:
        wanted[metadata.get("encoder", "vit")]["patch"] = list(patch)
    wanted["crop"] = list(crop or metadata["crop"])
    if channels is not None:
        wanted["inputs"] = wanted["preparation"]["channels"] = list(channels)
    new = described_layout(wanted)
    if any(c < p or c % p for c, p in zip(wanted["crop"], new.patch, strict=True)):
        raise WeightsError(f"{path}: the crop {tuple(wanted['crop'])} is no whole number of patches {new.patch}.")
    encoder = encoder_from(wanted)
    load_into(encoder, tensors, str(path), least=1.0, layouts=(described_layout(metadata), new))
    encoder.metadata = wanted  # type: ignore[assignment]
    return encoder.eval()


def load_segmentor(path: Path | str) -> tuple[Segmentor, dict[str, Any]]:
    """The segmentor of a fine-tuning, set to evaluation, and its metadata.

    Raises:
        WeightsError: there are no such weights, or they are no segmentor's.
    """
    tensors, metadata = read_kind(Path(path), "segmentor")
    classes = len(metadata.get("regions", ())) or max(map(int, metadata["labels"])) + 1  # see Structures.outputs
    network = build_segmentor(encoder_from(metadata), UNETRSettings(**metadata["unetr"]), classes)
    load_into(network, tensors, str(path), least=1.0)
    return network.eval(), metadata


def load_classifier(path: Path | str) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of a fine-tuning, set to evaluation, and its metadata.

    Raises:
        WeightsError: there are no such weights, or they are no classifier's.
    """
    tensors, metadata = read_kind(Path(path), "classifier")
    network = Classifier(encoder_from(metadata), len(metadata["classes"]))
    load_into(network, tensors, str(path), least=1.0)
    return network.eval(), metadata


def holds_classifier(path: Path) -> bool:
    """Whether a run folder or a weights file holds a classifier; whatever else is wrong with it is not told here."""
    if path.is_file():
        return bool(read_weights(path)[1]["kind"] == "classifier")
    return (path / "classifier.safetensors").is_file()


def read_kind(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of one kind, such as ``encoder`` or ``classifier``, from a run folder or a file.

    Raises:
        WeightsError: there are none, or they are another kind's.
    """
    file = find_weights(path, kind)
    tensors, metadata = read_weights(file)
    if metadata["kind"] != kind:
        raise WeightsError(f"{file}: these are {metadata['kind']} weights, but {kind} weights are needed here.")
    return tensors, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, and voxmim's metadata if there are any."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = (file.metadata() or {}).get("voxmim")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: this is not a whole safetensors file ({error}); copy it again.") from None


def _tensor_groups(content: object) -> Iterator[dict[str, Tensor]]:
    """Each mapping in a checkpoint, at whatever depth, of names to tensors."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield tensors
        for value in content.values():
            yield from _tensor_groups(value)

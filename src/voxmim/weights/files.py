"""Weights files: safetensors with metadata from which the network can be built and used."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.files import atomic_write
from voxmim.settings import with_current_names
from voxmim.weights.card import write_card

Tensors = dict[str, Tensor]
KINDS = ("encoder", "segmentor", "classifier", "regressor")  # of weights that have an encoder
MODEL = "model.safetensors"  # weights of any kind in a Hugging Face folder


def save_weights(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a network's tensors and metadata atomically, with the versions of the packages and a model card."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    versions = {package: version(package) for package in ("voxmim", "torch", "monai")}
    text = json.dumps({**metadata, "versions": versions})
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"voxmim": text}))
    write_card(path, json.loads(text))


def read_weights(path: Path, kind: str | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Read tensors and metadata of a weights file, or of a folder if a `kind` such as ``encoder`` is given.

    Raises:
        WeightsError: the file is missing, damaged, not voxmim's, or of another kind.
    """
    file = path if kind is None else find_weights(path, kind)
    if not file.is_file():
        raise WeightsError(f"{file}: no such weights; give a run folder or a .safetensors file.")
    tensors, text = read_safetensors(file)
    if text is None:
        raise WeightsError(f"{file}: these weights lack voxmim's metadata; convert them with 'voxmim import'.")
    metadata = with_current_names(json.loads(text), str(file))
    if kind not in (None, metadata["kind"]):
        raise WeightsError(f"{file}: these are {metadata['kind']} weights, but {kind} weights are needed here.")
    return tensors, metadata


def find_weights(path: Path, kind: str) -> Path:
    """The weights file of a run or a Hugging Face folder, or the file itself; raises WeightsError if there is none."""
    file = path / f"{kind}.safetensors"
    for candidate in (path, file, path / MODEL):
        if candidate.is_file():
            return candidate
    found = ", ".join(sorted(other.name for other in path.glob("*.safetensors"))) if path.is_dir() else ""
    training = {"encoder": "pre-training or a fine-tuning", "pretext": "pre-training"}.get(kind, "fine-tuning")
    raise WeightsError(
        f"{path}: there is no {file.name} here{f', but {found}' if found else ''}; give the run folder of a {training}."
    )


def holds(path: Path, kind: str) -> bool:
    """Whether a folder or a weights file has weights of a kind, such as ``classifier``."""
    if path.is_file():
        return bool(read_weights(path)[1]["kind"] == kind)
    return (path / f"{kind}.safetensors").is_file() or ((path / MODEL).is_file() and holds(path / MODEL, kind))


def kind_of(path: Path) -> str:
    """The kind, one of `KINDS`, of a run folder or a weights file; ``encoder`` if it has none."""
    return next((kind for kind in KINDS if holds(path, kind)), "encoder")


def read_safetensors(path: Path) -> tuple[Tensors, str | None]:
    """The tensors and voxmim's metadata as JSON, if there are any; raises WeightsError if the file is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = (file.metadata() or {}).get("voxmim")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: this is not a complete safetensors file ({error}); copy it again.") from None

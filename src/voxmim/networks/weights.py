"""Weights on disk: safetensors with everything in their metadata that is needed to use them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.files import whole
from voxmim.networks.build import Encoder, Segmentor, build_encoder, build_segmentor, described_encoder
from voxmim.networks.positions import resize_positions
from voxmim.networks.vit import ViT
from voxmim.settings import UNETRSettings

LEAST_LOADED = 0.9  # of an encoder's parameters; with fewer, the encoder is hardly the one that was pre-trained


@dataclass
class Transfer:
    """The account of what moved from a file into a network.

    Attributes:
        loaded: parameters copied as they are.
        resized: position codes interpolated to another grid.
        missing: parameters of the network that the file does not have, or has in another shape.
        unused: tensors of the file that the network has no place for.
        share: of the network's encoder values that were loaded or resized, 0..1.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    share: float = 0.0

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded, {len(self.resized)} resized"
        for what, names in (("not in the file", self.missing), ("in the file but not used", self.unused)):
            if names:
                text += f", {len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        return f"{text}: {self.share:.1%} of the encoder's parameters"


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
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = (file.metadata() or {}).get("voxmim")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: this is not a whole safetensors file ({error}); copy it again.") from None
    if metadata is None:
        raise WeightsError(f"{path}: these weights lack voxmim's metadata; only files that voxmim wrote can be loaded.")
    return tensors, json.loads(metadata)


def load_into(
    network: nn.Module, tensors: Mapping[str, Tensor], origin: str, least: float = LEAST_LOADED, inner: str = ""
) -> Transfer:
    """Copy what fits from `tensors` into a network, and account for every tensor.

    Args:
        network: gets the weights; a ViT's learned positions are interpolated to its grid.
        tensors: from `read_weights`.
        origin: the file, for the error.
        least: share of the network's values that must be found.
        inner: prefix of the wanted tensors in the file, such as ``encoder.``.

    Raises:
        WeightsError: fewer than `least` of the network's values are in the file.
    """
    transfer = Transfer()
    state = network.state_dict()
    offered = {name.removeprefix(inner): tensor for name, tensor in tensors.items() if name.startswith(inner)}
    transfer.unused = sorted(set(offered) - set(state))
    found = 0
    for name, tensor in state.items():
        source = offered.get(name)
        if source is None:
            transfer.missing.append(name)
            continue
        if source.shape != tensor.shape and name == "positions" and isinstance(network, ViT):
            source = _positions_on(network, source)
        if source is None or source.shape != tensor.shape:
            transfer.missing.append(name)
            continue
        (transfer.loaded if source is offered[name] else transfer.resized).append(name)
        tensor.copy_(source)
        found += tensor.numel()
    transfer.share = found / max(1, sum(tensor.numel() for tensor in state.values()))
    if transfer.share < least:
        raise WeightsError(
            f"{origin}: only {transfer.share:.0%} of the network's parameters are in this file ({transfer}); "
            "use the recipe that the weights were trained with."
        )
    return transfer


def _positions_on(network: ViT, table: Tensor) -> Tensor | None:
    """A learned table of a cubic grid, interpolated to the network's grid."""
    side = round(len(table) ** (1 / 3))
    if side**3 != len(table) or table.shape[1] != network.width:
        return None
    return resize_positions(table, (side, side, side), network.grid)


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
            f"give the run folder of a {'pre-training' if kind != 'segmentor' else 'fine-tuning'}."
        )
    return file


def encoder_from(metadata: Mapping[str, Any]) -> Encoder:
    """The encoder that a file's metadata describes, without its weights."""
    _, settings = described_encoder(metadata)
    x, y, z = metadata["crop"]
    return build_encoder(settings, len(metadata["preparation"]["channels"]), (x, y, z))


def load_encoder(path: Path | str) -> Encoder:
    """The encoder of a pre-training, ready to be put into another network.

    Args:
        path: a run folder or an ``encoder.safetensors``.

    Returns:
        the network; ``encoder(volume)`` turns (B, C, X, Y, Z) into a ViT's tokens (B, N, width), or into the deepest
        map (B, width, x, y, z) of a Swin or U-Net, which is what ``encoder.encode(volume)`` gives of each. Its
        attribute ``metadata`` tells what a scan must be like (spacing, intensity, window, crop, channels).

    Raises:
        WeightsError: there are no such weights, or they are no encoder's.
    """
    tensors, metadata = read_kind(Path(path), "encoder")
    encoder = encoder_from(metadata)
    load_into(encoder, tensors, str(path), least=1.0)
    encoder.metadata = metadata  # type: ignore[assignment]
    return encoder.eval()


def load_segmentor(path: Path | str) -> tuple[Segmentor, dict[str, Any]]:
    """The segmentor of a fine-tuning, set to evaluation, and its metadata.

    Raises:
        WeightsError: there are no such weights, or they are no segmentor's.
    """
    tensors, metadata = read_kind(Path(path), "segmentor")
    classes = max(map(int, metadata["labels"])) + 1
    network = build_segmentor(encoder_from(metadata), UNETRSettings(**metadata["unetr"]), classes)
    load_into(network, tensors, str(path), least=1.0)
    return network.eval(), metadata


def read_kind(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of one kind (``encoder``, ``pretext``, ``segmentor``) from a run folder or a file.

    Raises:
        WeightsError: there are none, or they are another kind's.
    """
    file = find_weights(path, kind)
    tensors, metadata = read_weights(file)
    if metadata["kind"] != kind:
        raise WeightsError(f"{file}: these are {metadata['kind']} weights, but {kind} weights are needed here.")
    return tensors, metadata

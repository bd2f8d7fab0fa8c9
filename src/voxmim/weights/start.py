"""A training that starts from weights: what of its recipe follows from them, and what moves into its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.networks.build import ANY, Encoder, described_encoder, described_inputs
from voxmim.networks.unet import UNet
from voxmim.pretext.assemble import described_pretext
from voxmim.recipe import FITTING
from voxmim.settings import Recipe, Triple
from voxmim.store.format import Preparation, Store
from voxmim.text import sizes_in_words
from voxmim.weights.adapt import Layout, described_layout
from voxmim.weights.files import find_weights, read_kind
from voxmim.weights.load import Transfer, load_into

_HOW_NOT_WHAT = ("drop_path", "checkpoint")  # an encoder's settings that tell how to train it


@dataclass(frozen=True)
class Start:
    """Weights that a training starts from.

    Attributes:
        file: where they lie.
        tensors: by name.
        metadata: what the file tells of itself.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, init: Path) -> Start:
        """Read a pre-training's run folder or weights file.

        Raises:
            WeightsError: there are no such weights, or they are no encoder's.
        """
        file = find_weights(init, "encoder")
        return cls(file, *read_kind(file, "encoder"))

    @property
    def crop(self) -> Triple:
        """Voxels of a crop along X, Y, Z that the weights were trained with."""
        x, y, z = self.metadata["crop"]
        return x, y, z

    @property
    def origin(self) -> dict[str, Any]:
        """What the weights of the new training tell of these: the file's name, its data with their licence, its own."""
        kept = {key: self.metadata[key] for key in ("data", "imported", "init") if self.metadata.get(key)}
        return {"file": self.file.name, **kept}

    def move_into(self, encoder: Encoder, store: Store, recipe: Recipe, inputs: Sequence[str]) -> Transfer:
        """Fill an encoder of such inputs (names of channels), adapted to them and to the recipe's patch and crop.

        Raises:
            WeightsError: too little fits.
        """
        assert recipe.crop is not None
        new = Layout.of(inputs, recipe.encoder_settings.patch, recipe.crop)
        layouts = (described_layout(self.metadata), new)
        transfer = load_into(encoder, self.tensors, str(self.file), layouts=layouts)
        known = Preparation.from_dict({**self.metadata["preparation"], "channels": described_inputs(self.metadata)})
        transfer.warnings = differences(known, replace(store.preparation, channels=tuple(inputs)))
        return transfer


def settings_from(metadata: Mapping[str, Any], pretext: bool = True) -> dict[str, Any]:
    """What of a recipe follows from weights, as settings such as ``{"encoder": "vit", "vit.width": 768}``.

    That is the encoder but for how it is trained, the window if they know CT, and if wished their pretext; where they
    had none here, one that fits.
    """
    kind, encoder = described_encoder(metadata)
    groups: dict[str, object] = {kind: encoder}
    settings: dict[str, Any] = {"encoder": kind}
    if metadata["preparation"]["intensity"] == "ct":
        settings["window"] = list(metadata["window"])
    if pretext and "pretext" in metadata:
        settings["pretext"], task, mask = described_pretext(metadata)
        groups |= {settings["pretext"]: task, "mask": mask}
    elif pretext:
        settings["pretext"] = next(task for task, encoders in FITTING.items() if kind in encoders)
    for group, values in groups.items():
        for name, value in asdict(values).items():  # type: ignore[call-overload]
            if name not in _HOW_NOT_WHAT:
                settings[f"{group}.{name}"] = list(value) if isinstance(value, tuple) else value
    return settings


def differences(known: Preparation, have: Preparation) -> list[str]:
    """What is different about scans that weights do not know, one sentence each."""
    found = []
    if known.intensity != have.intensity:
        found.append(
            f"The weights know {known.intensity.upper()}, and these scans are {have.intensity.upper()}, whose values "
            "mean something else."
        )
    elif known.intensity == "mr" and known.zero_background != have.zero_background:
        old, new = "scaled like tissue", "0, as padding is"
        theirs, ours = (new, old) if known.zero_background else (old, new)
        found.append(f"The weights know a background that is {theirs}; in these scans it is {ours}.")
    if known.spacing != have.spacing:
        theirs, ours = (sizes_in_words(one.spacing) for one in (known, have))
        found.append(f"The weights know voxels of {theirs} mm, and these scans have {ours} mm.")
    names = [sorted(map(str.casefold, one.channels)) for one in (known, have)]
    if [ANY] not in names and names[0] != names[1]:
        theirs, ours = (", ".join(one.channels) for one in (known, have))
        how = "the one takes the other's place" if len(known.channels) == len(have.channels) == 1 else (
            "a channel of the same name takes its own kernel, and any other the mean of them"
        )  # fmt: skip
        found.append(f"The weights know the channels {theirs}, and these scans have {ours}: {how}.")
    return found


def account(start: Start | None, transfer: Transfer | None, decoder: Transfer | None = None) -> dict[str, Any]:
    """What run.json tells of the weights that moved."""
    if start is None or transfer is None:
        return {"init": None, "transfer": None}
    moved = str(transfer) if decoder is None else f"{transfer}; and all {len(decoder.loaded)} of the decoder"
    return {
        "init": str(start.file.resolve()),
        "origin": start.origin,
        "transfer": moved,
        "warnings": transfer.warnings,
    }


def show(transfer: Transfer, origin: Path) -> None:
    """Print the account as a table, with its warnings."""
    console = Console(highlight=False)
    table = Table("", "tensors", "which", title=f"Weights from {origin}", title_justify="left")
    for row in transfer.rows():
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
    for warning in transfer.warnings:
        console.print(warning, style="yellow", markup=False, soft_wrap=True)


def carry_decoder(network: nn.Module, init: Path) -> Transfer:
    """Fill the decoder of a U-Net from the pretext network that lies beside its encoder.

    Raises:
        WeightsError: there is no such decoder, or the network has none.
    """
    tensors, metadata = read_kind(find_weights(init.parent, "pretext"), "pretext")
    if not isinstance(network, UNet) or metadata["pretext"] != "mae":
        raise WeightsError(
            f"{init}: these weights have no decoder to carry along, which only a U-Net's MAE has; leave out "
            "carry_decoder."
        )
    return load_into(network.decoder, tensors, str(init.parent), least=1.0, inner="network.decoder.")

"""Starting a training from weights: the settings that they determine, and loading them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from torch import Tensor, nn

from voxmim.errors import WeightsError
from voxmim.networks.build import ANY, ENCODERS, Encoder, described_encoder, described_inputs
from voxmim.pretext.build import PRETEXTS, described_pretext, fitting_pretexts
from voxmim.recipe import Recipe
from voxmim.settings import Triple, UNETRSettings
from voxmim.store.format import Preparation, Store
from voxmim.text import sizes_in_words
from voxmim.weights.adapt import Inputs
from voxmim.weights.files import find_weights, kind_of, read_weights
from voxmim.weights.load import LoadReport, load_into

_OF_TRAINING = ("drop_path", "grad_checkpointing")  # settings that do not change the function of an encoder


@dataclass(frozen=True)
class Start:
    """The weights that a training starts from."""

    file: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, init: Path) -> Self:
        """Read the run folder or weights file of a training; raises WeightsError if there is none."""
        kind = kind_of(init)
        return cls(find_weights(init, kind), *read_weights(init, kind))

    @property
    def kind(self) -> str:
        """``encoder``, or the kind of network that contains one."""
        return str(self.metadata["kind"])

    @property
    def crop(self) -> Triple:
        """The crop of their training, in voxels along X, Y, Z."""
        x, y, z = self.metadata["crop"]
        return x, y, z

    @property
    def origin(self) -> dict[str, Any]:
        """The entry in the metadata of new weights: the file's name, its data with licence, and its own origin."""
        entries = {key: self.metadata[key] for key in ("data", "imported", "init") if self.metadata.get(key)}
        return {"file": self.file.name, **entries}

    def load_into(self, encoder: Encoder, store: Store, recipe: Recipe, channels: Sequence[str]) -> LoadReport:
        """Load the weights into an encoder, adapted to these channels and to the recipe's patch and crop."""
        assert recipe.crop is not None
        new = Inputs.of(channels, recipe.encoder_settings.patch, recipe.crop)
        prefix, inputs = "" if self.kind == "encoder" else "encoder.", (Inputs.from_metadata(self.metadata), new)
        report = load_into(encoder, self.tensors, str(self.file), prefix=prefix, inputs=inputs)
        known = Preparation.from_dict({**self.metadata["preparation"], "channels": described_inputs(self.metadata)})
        report.warnings = differences(known, replace(store.preparation, channels=tuple(channels)))
        return report


def settings_from(metadata: Mapping[str, Any], pretext: bool = True) -> dict[str, Any]:
    """The settings of a recipe that weights determine, such as ``{"encoder": "vit", "vit.width": 768}``.

    These are the settings of the encoder, of a segmentor's decoder, the window of CT, and with `pretext` those of the
    pretext (for imported weights, one that fits the encoder).
    """
    kind, encoder = described_encoder(metadata)
    settings: dict[str, Any] = {"encoder": kind}
    groups: dict[str, object] = {kind: encoder}
    if "unetr" in metadata:
        groups["unetr"] = UNETRSettings(**metadata["unetr"])
    if metadata["preparation"]["intensity"] == "ct":
        settings["window"] = list(metadata["window"])
    if pretext and "pretext" in metadata:
        settings["pretext"], task, mask = described_pretext(metadata)
        groups |= {settings["pretext"]: task, "mask": mask}
    elif pretext:
        settings["pretext"] = fitting_pretexts(kind)[0]
    for group, values in groups.items():
        for name, value in asdict(values).items():  # type: ignore[call-overload]
            if name not in _OF_TRAINING:
                settings[f"{group}.{name}"] = _as_lists(value)
    return settings


def _as_lists(value: Any) -> Any:
    return [_as_lists(inner) for inner in value] if isinstance(value, tuple) else value


def differences(old: Preparation, new: Preparation) -> list[str]:
    """Sentences on the differences between the scans that weights were trained on (`old`) and other scans (`new`)."""
    found = []
    if old.intensity != new.intensity:
        found.append(
            f"The weights were trained on {old.intensity.upper()}, but these scans are {new.intensity.upper()}."
        )
    elif old.intensity == "mr" and old.zero_background != new.zero_background:
        before, now = ("0, as padding is" if each.zero_background else "scaled like tissue" for each in (old, new))
        found.append(f"The weights know a background that is {before}; in these scans it is {now}.")
    if old.spacing != new.spacing:
        before, now = sizes_in_words(old.spacing), sizes_in_words(new.spacing)
        found.append(f"The weights were trained on voxels of {before} mm, but these scans have {now} mm.")
    names = [sorted(map(str.casefold, each.channels)) for each in (old, new)]
    if [ANY] not in names and names[0] != names[1]:
        before, now = ", ".join(old.channels), ", ".join(new.channels)
        how = "a channel of the same name keeps its own kernel, and any other gets the mean of them"
        if len(old.channels) == len(new.channels) == 1:
            how = "one replaces the other"
        found.append(f"The weights were trained on the channels {before}, but these scans have {now}: {how}.")
    return found


def start_entries(start: Start | None, report: LoadReport | None, decoder: LoadReport | None = None) -> dict[str, Any]:
    """The entries of run.json on the weights that a training started from."""
    if start is None or report is None:
        return {"init": None, "transfer": None}
    loaded = str(report) if decoder is None else f"{report}; and all {len(decoder.loaded)} of the decoder"
    return {
        "init": str(start.file.resolve()),
        "origin": start.origin,
        "transfer": loaded,
        "warnings": report.warnings,
    }


def carry_decoder(network: nn.Module, init: Path) -> LoadReport:
    """Load the decoder of a U-Net from the pretext network beside its encoder; raises WeightsError if there is none."""
    tensors, metadata = read_weights(init.parent, "pretext")
    pretext = PRETEXTS[metadata["pretext"]].for_encoder(ENCODERS[described_encoder(metadata)[0]].encoder)
    if not network.carries_decoder or pretext is None or pretext.decoder_prefix is None:
        raise WeightsError(
            f"{init}: these weights have no decoder to carry over, as only a U-Net's MAE has; leave out carry_decoder."
        )
    decoder = cast(nn.Module, network.decoder)
    return load_into(decoder, tensors, str(init.parent), min_fraction=1.0, prefix=pretext.decoder_prefix)

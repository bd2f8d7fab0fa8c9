"""The pretexts by name, and building pretext networks from settings."""

from collections.abc import Mapping
from typing import Any

from voxmim.networks.base import Encoder
from voxmim.networks.build import ENCODERS
from voxmim.pretext.mae import MAE
from voxmim.pretext.pretext import Pretext
from voxmim.pretext.simclr import SimCLR
from voxmim.pretext.simmim import SimMIM
from voxmim.settings import MaskSettings

PRETEXTS: dict[str, type[Pretext]] = {"mae": MAE, "simmim": SimMIM, "simclr": SimCLR}


def fitting_pretexts(encoder: str) -> list[str]:
    """The names of the pretexts that can pre-train the encoder of that name."""
    return [name for name, pretext in PRETEXTS.items() if pretext.for_encoder(ENCODERS[encoder].encoder)]


def build_pretext(name: str, settings: Any, mask: MaskSettings, encoder: Encoder) -> Pretext:
    """Build the pretext network of an encoder; raises TypeError if it cannot pre-train this kind of encoder."""
    pretext: Any = PRETEXTS[name].for_encoder(type(encoder))
    if pretext is None:
        raise TypeError(f"the pretext {name} cannot pre-train a {type(encoder).__name__}")
    return pretext(encoder, settings, mask)


def described_pretext(metadata: Mapping[str, Any]) -> tuple[str, Any, MaskSettings]:
    """The pretext in a weights file's metadata: its name, its settings and those of its masks."""
    name, mask = metadata["pretext"], metadata["mask"]
    unit = None if mask["unit"] is None else tuple(mask["unit"])
    return name, PRETEXTS[name].Settings(**metadata[name]), MaskSettings(**{**mask, "unit": unit})

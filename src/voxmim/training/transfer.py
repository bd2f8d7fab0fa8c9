"""A training that starts from weights: what of its recipe follows from them, and what moves into its network."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from voxmim.errors import WeightsError
from voxmim.networks.build import described_encoder
from voxmim.networks.unet import UNet
from voxmim.networks.weights import Transfer, find_weights, load_into, read_kind
from voxmim.pretext.assemble import described_pretext
from voxmim.recipe import check_recipe
from voxmim.settings import Recipe, UNetSettings
from voxmim.store import Store


def fit_to_weights(recipe: Recipe, store: Store, metadata: dict[str, Any], origin: Path) -> Recipe:
    """The recipe with the encoder, the crop and the window that the weights were trained with, and their pretext.

    Raises:
        RecipeError: what is left of the recipe does not go together with these.
        WeightsError: the store's scans are not of the kind that the weights know, or the crop does not fit them.
    """
    known, have = metadata["preparation"], asdict(store.preparation)
    for key, what in (("intensity", "intensities"), ("channels", "channels")):
        if list(known[key]) != list(have[key]):
            raise WeightsError(
                f"{origin}: these weights know {what} {known[key]}, but the store {store.path} holds {have[key]}; "
                "prepare the scans alike."
            )
    (kind, settings), crop = described_encoder(metadata), recipe.crop or tuple(metadata["crop"])
    if any(c % p for c, p in zip(crop, settings.patch, strict=True)):
        raise WeightsError(
            f"{origin}: these weights know patches of {settings.patch}, of which the crop {crop} is no whole number; "
            "change crop."
        )
    if not isinstance(settings, UNetSettings):
        own = getattr(recipe, kind)  # whose dropping and checkpointing are how to train, not what
        settings = replace(settings, drop_path=own.drop_path, checkpoint=own.checkpoint)
    pretext, task, mask = described_pretext(metadata)
    changes: dict[str, Any] = {"encoder": kind, kind: settings, "crop": crop, "window": tuple(metadata["window"])}
    changes |= {"pretext": pretext, pretext: task, "mask": mask}
    recipe = replace(recipe, **changes)
    check_recipe(recipe, str(origin))
    return recipe


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

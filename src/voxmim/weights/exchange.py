"""Encoders from and for other packages, as files: a foreign checkpoint in, MONAI's own names out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from voxmim.errors import RecipeError, StoreError, WeightsError
from voxmim.files import whole
from voxmim.networks.build import build_encoder, describe_encoder
from voxmim.networks.swin import Swin
from voxmim.networks.unet import ResidualEncoder
from voxmim.recipe import FITTING, make_recipe
from voxmim.settings import Recipe, Triple
from voxmim.store.format import Preparation, Store
from voxmim.weights.convert import to_monai_swin_unetr, to_monai_unetr
from voxmim.weights.files import load_encoder, read_foreign, save_weights
from voxmim.weights.layouts import Foreign, known_group, understand
from voxmim.weights.load import Transfer, load_into

_TOLD = ("vit", "swin", "crop", "window", "seed")  # the settings that make sense of foreign weights


def import_encoder(
    file: Path, out: Path, preparation: Preparation, told: Mapping[str, Any], licence: str = ""
) -> Transfer:
    """Write ``OUT/encoder.safetensors`` from a foreign checkpoint.

    Args:
        file: a checkpoint of MONAI's ViT, masked autoencoder or Swin, or of a 2D masked autoencoder.
        out: a new folder.
        preparation: what a scan must be like.
        told: settings that the weights do not tell, such as ``{"vit.heads": 12}``.
        licence: a note on whose the weights are and what may be done with them.

    Returns:
        the account of what moved.

    Raises:
        RecipeError: a setting that is none of these, or does not fit the weights.
        WeightsError: the file cannot be read or understood, or `out` is occupied.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise WeightsError(f"{out}: there is something here already; name another folder.")
    for key in told:
        if key.partition(".")[0] not in _TOLD:
            raise RecipeError(f"--set {key}: an import knows vit.*, swin.*, crop and window only.")
    try:
        state = known_group(read_foreign(file))
        foreign = understand(state, len(preparation.channels), _triple(told, "vit.patch"), _triple(told, "crop"))
    except ValueError as error:
        raise WeightsError(
            f"{file}: this cannot be imported, since {error}; docs/weights.md says what can, and what has to be told."
        ) from None
    recipe = _recipe_of(foreign, told, str(file))
    assert recipe.crop is not None
    torch.manual_seed(0)  # for what the file does not have
    encoder = build_encoder(recipe.encoder_settings, len(preparation.channels), recipe.crop)
    transfer = _account(load_into(encoder, foreign.weights.tensors, str(file)), foreign)
    if foreign.kind == "vit" and "vit.heads" not in told:
        heads = recipe.vit.heads
        transfer.warnings = [f"The number of heads was supposed to be {heads}, as weights do not tell it (vit.heads)."]
    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    metadata = {
        "kind": "encoder",
        "preparation": asdict(preparation),
        "window": list(recipe.window),
        "crop": list(recipe.crop),
        **describe_encoder(recipe),
        "data": {"name": "", "digest": "", "licence": licence},
        "imported": {"file": file.name, "digest": digest, "naming": foreign.naming},
    }
    save_weights(out / "encoder.safetensors", encoder, metadata)
    return transfer


def scans_like(
    store: Path | None,
    spacing: tuple[float, float, float] | None,
    intensity: str | None,
    channels: Sequence[str] | None,
) -> Preparation:
    """What a scan must be like for imported weights: as those of a store, but for what is told.

    Raises:
        StoreError: there is no such store, or without one something is not told.
    """
    like = None if store is None else Store(store).preparation
    if like is None and not (spacing and intensity and channels):
        raise StoreError("an import must know its scans: give --like STORE, or --spacing, --intensity and --channels.")
    if intensity not in (None, "ct", "mr") or (spacing is not None and min(spacing) <= 0):
        raise StoreError(f"scans of {intensity} at {spacing} mm cannot be; give ct or mr, and sizes above 0.")
    told = {"spacing": spacing, "intensity": intensity, "channels": tuple(channels) if channels else None}
    return Preparation(**{**(asdict(like) if like else {}), **{key: value for key, value in told.items() if value}})


def export_encoder(run: Path, out: Path) -> str:
    """Write an encoder's weights under the names of MONAI's `UNETR` or `SwinUNETR`.

    Args:
        run: a pre-training's run folder or weights file.
        out: a ``.safetensors`` or ``.pt`` file.

    Returns:
        the Python lines that make MONAI's network and load the weights.

    Raises:
        WeightsError: another ending, or an encoder that MONAI's network cannot hold.
    """
    if out.suffix not in (".safetensors", ".pt"):
        raise WeightsError(f"{out}: end the file's name in .safetensors or .pt, which says how it is written.")
    encoder = load_encoder(run)
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    if isinstance(encoder, ResidualEncoder):
        raise WeightsError(f"{run}: MONAI has no network that our residual U-Net's weights fit; take a ViT or a Swin.")
    try:
        tensors = to_monai_swin_unetr(encoder) if isinstance(encoder, Swin) else to_monai_unetr(encoder)
    except ValueError as error:
        raise WeightsError(f"{run}: this encoder cannot be exported, since {error}; pre-train another.") from None
    if isinstance(encoder, Swin):
        name, own = "SwinUNETR", about["swin"]
        settings = {
            "feature_size": own["width"],
            "depths": tuple(own["depths"]),
            "num_heads": tuple(own["heads"]),
            "window_size": own["window"],
            "mlp_ratio": own["mlp_ratio"],
        }
    else:
        name, own = "UNETR", about["vit"]
        settings = {
            "img_size": tuple(about["crop"]),
            "hidden_size": own["width"],
            "mlp_dim": int(own["width"] * own["mlp_ratio"]),
            "num_heads": own["heads"],
            "proj_type": "conv",
            "qkv_bias": True,
        }
    _write(out, {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, about)
    reader = "load_file(" if out.suffix == ".safetensors" else "torch.load("
    more = "" if out.suffix == ".safetensors" else ", weights_only=True"
    told = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return "\n".join([
        f"from monai.networks.nets import {name}",
        "from safetensors.torch import load_file" if out.suffix == ".safetensors" else "import torch",
        f"network = {name}(in_channels={encoder.channels}, out_channels=CLASSES, {told})",
        f"network.load_state_dict({reader}{str(out)!r}{more}), strict=False)",
    ])  # fmt: skip


def _write(out: Path, tensors: dict[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """In one stroke; a safetensors file also tells what a scan must be like, and where the weights come from."""
    kept = {key: about[key] for key in ("preparation", "window", "crop", "data", "imported", "init") if key in about}
    with whole(out) as temporary:
        if out.suffix == ".pt":
            torch.save(tensors, temporary)
        else:
            temporary.write_bytes(save(tensors, metadata={"format": "pt", "from_voxmim": json.dumps(kept)}))


def _recipe_of(foreign: Foreign, told: Mapping[str, Any], origin: str) -> Recipe:
    """A recipe of the foreign encoder, with what is told, checked as every recipe is."""
    settings: dict[str, Any] = {
        "encoder": foreign.kind,
        "pretext": next(task for task, encoders in FITTING.items() if foreign.kind in encoders),
        "crop": list(foreign.crop),
        foreign.kind: dict(foreign.settings),
    }
    for key, value in told.items():
        group, _, name = key.partition(".")
        if name:
            settings[group] = {**settings.get(group, {}), name: value}
        else:
            settings[group] = value
    return make_recipe(settings, origin)


def _account(transfer: Transfer, foreign: Foreign) -> Transfer:
    """The account in foreign terms: what was renamed, what was made, what was left."""
    names = foreign.weights.names
    transfer.resized = {name: how for name, how in foreign.made.items() if name in transfer.loaded}
    plain = [name for name in transfer.loaded if name not in transfer.resized]
    transfer.renamed = {name: names[name] for name in plain if names[name] != name}
    transfer.loaded = [name for name in plain if name not in transfer.renamed]
    transfer.skipped = foreign.weights.left
    return transfer


def _triple(told: Mapping[str, Any], key: str) -> Triple | None:
    value = told.get(key)
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 3 or not all(type(v) is int and v > 0 for v in value):
        raise RecipeError(f"--set {key}={value}: give three whole numbers above 0, such as {key}=[16,16,16].")
    x, y, z = value
    return x, y, z

"""Importing an encoder of another package."""

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxmim.errors import RecipeError, StoreError, WeightsError
from voxmim.networks.build import build_encoder, describe_encoder
from voxmim.pretext.build import fitting_pretexts
from voxmim.recipe import Recipe, make_recipe
from voxmim.settings import Triple
from voxmim.store.format import Preparation, Store
from voxmim.weights.files import read_safetensors, save_weights
from voxmim.weights.layouts import LAYOUTS, Checkpoint, Imported, Request, convert
from voxmim.weights.load import LoadReport, load_into


def import_encoder(
    file: Path,
    out: Path,
    scans: Mapping[str, Any],
    like: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    licence: str = "",
) -> LoadReport:
    """Write ``OUT/encoder.safetensors`` and its model card from a checkpoint in any layout of `LAYOUTS`.

    See `voxmim.import_weights` for the arguments. `scans` may have spacing, intensity and channels; missing ones are
    taken from `like`, then from the checkpoint.

    Raises:
        RecipeError: a setting is unknown or does not fit the weights.
        StoreError: spacing, intensity or channels are missing or not valid.
        WeightsError: the file cannot be read, has no known layout, or `out` is not empty.
    """
    settings = settings or {}
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise WeightsError(f"{out}: this is not empty; name another folder.")
    given = {key: value for key, value in scans.items() if value}
    if like is not None:
        given = asdict(Store(like).preparation) | given
    request = Request(
        channels=len(given["channels"]) if "channels" in given else None,
        patch=_triple(settings, "vit.patch"),
        crop=_triple(settings, "crop"),
        heads=settings.get("vit.heads"),
        axes=str(settings.get("axes", "RAS")),
        intensity=given.get("intensity"),
        window=settings.get("window"),
    )
    try:
        layout, imported = convert(read_foreign(file), request)
    except ValueError as error:
        raise WeightsError(f"{file}: this cannot be imported, since {error} (see docs/weights.md).") from None
    preparation = _preparation({**imported.scans, **given})
    recipe = _recipe(imported, settings, str(file))
    assert recipe.crop is not None
    torch.manual_seed(0)  # for weights that are not in the file
    encoder = build_encoder(recipe.encoder_settings, len(preparation.channels), recipe.crop)
    report = _in_foreign_names(load_into(encoder, imported.tensors, str(file)), imported)
    report.warnings = imported.warnings
    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    origin = {"file": file.name, "digest": digest, "naming": layout, "network": LAYOUTS[layout].title}
    metadata = {
        "kind": "encoder",
        "preparation": asdict(preparation),
        "window": list(recipe.window),
        "crop": list(recipe.crop),
        **describe_encoder(recipe.encoder, recipe.encoder_settings),
        "data": {"name": "", "digest": "", "licence": licence or _licence_beside(file)},
        "imported": origin | imported.about,
    }
    save_weights(out / "encoder.safetensors", encoder, metadata)
    return report


def read_foreign(path: Path) -> list[Checkpoint]:
    """The mappings of names to tensors in a ``.safetensors`` or `torch.save` file, outermost first.

    A pickled checkpoint is read with ``weights_only=True``, which runs no code.

    Raises:
        WeightsError: the file is missing, damaged, written by voxmim, or has more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; check the path.")
    if path.suffix == ".safetensors":
        tensors, own = read_safetensors(path)
        if own is not None:
            raise WeightsError(f"{path}: voxmim wrote these weights; start from them with --init, without an import.")
        return [Checkpoint(tensors, folder=path.parent)]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", str(error))
        reason = (found[1] or found[2]) if found else "an object of another kind"
        raise WeightsError(
            f"{path}: it holds more than tensors and plain values ({reason}), and reading that could run foreign code, "
            "so it is refused; save the state_dict alone where the file comes from, with "
            "torch.save(network.state_dict(), FILE)."
        ) from None
    except Exception as error:  # torch raises many undocumented kinds
        raise WeightsError(
            f"{path}: this is not a complete checkpoint that torch can read ({type(error).__name__}); copy it again."
        ) from None
    config = content if isinstance(content, Mapping) else {}
    return [Checkpoint(tensors, config, folder=path.parent) for tensors in _tensor_groups(content)]


def _numpy_numbers() -> list[Any]:
    """The types of NumPy's numbers, which nnU-Net's checkpoints contain in their logs."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]


def _licence_beside(file: Path) -> str:
    """The licence in a Hugging Face model card beside the file, or an empty string."""
    card = file.parent / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    match = re.search(r"\A---\n(?:.*\n)*?license: *(.+)\n(?:.*\n)*?---", text)
    return match[1].strip() if match else ""


def _tensor_groups(content: object) -> Iterator[dict[str, Tensor]]:
    """The mappings of names to tensors at any depth of a checkpoint."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield tensors
        for value in content.values():
            yield from _tensor_groups(value)


def _preparation(scans: Mapping[str, Any]) -> Preparation:
    """How scans must be prepared; raises StoreError if something is missing or not valid."""
    missing = [f"--{name}" for name in ("spacing", "intensity", "channels") if not scans.get(name)]
    if missing:
        raise StoreError(f"the file does not say what its scans were like: give --like STORE, or {', '.join(missing)}.")
    if scans["intensity"] not in ("ct", "mr") or min(scans["spacing"]) <= 0:
        raise StoreError(
            f"scans of {scans['intensity']} at {tuple(scans['spacing'])} mm cannot be; give ct or mr and sizes above 0."
        )
    return Preparation.from_dict(scans)


def _recipe(imported: Imported, settings: Mapping[str, Any], origin: str) -> Recipe:
    """A checked recipe with the imported encoder and the user's settings."""
    nested: dict[str, Any] = {
        "encoder": imported.encoder,
        "pretext": fitting_pretexts(imported.encoder)[0],
        "crop": list(imported.crop),
        **({"window": list(imported.scans["window"])} if "window" in imported.scans else {}),
        imported.encoder: dict(imported.settings),
    }
    for key, value in settings.items():
        group, _, name = key.partition(".")
        if group not in (imported.encoder, "crop", "window", "seed", "axes"):
            raise RecipeError(f"--set {key}: an import takes {imported.encoder}.*, crop, window and axes only.")
        if key == "axes":
            continue
        nested[group] = {**nested[group], name: value} if name else value
    return make_recipe(nested, origin)


def _in_foreign_names(report: LoadReport, imported: Imported) -> LoadReport:
    """The report with the changes of the import and the names in the file."""
    names = imported.names
    report.adapted = {name: how for name, how in imported.changes.items() if name in report.loaded}
    unchanged = [name for name in report.loaded if name not in report.adapted]
    report.renamed = {name: names[name] for name in unchanged if names[name] != name}
    report.loaded = [name for name in unchanged if name not in report.renamed]
    report.unused = imported.unused
    return report


def _triple(settings: Mapping[str, Any], key: str) -> Triple | None:
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 3 or not all(type(v) is int and v > 0 for v in value):
        raise RecipeError(f"--set {key}={value}: give three whole numbers above 0, such as {key}=[16,16,16].")
    x, y, z = value
    return x, y, z

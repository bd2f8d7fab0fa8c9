"""Recipes: short YAML files of settings, read, checked for names, types and sense, and written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from voxmim.errors import RecipeError, nearest
from voxmim.files import write_text
from voxmim.settings import SIZES, Augmentation, Recipe, Triple

FITTING = {"mae": ("vit", "unet"), "simmim": ("vit", "swin"), "simclr": ("vit", "swin", "unet")}
_COUNTS = {
    "": "crop_voxels devices nodes",
    "vit": "width depth heads",
    "swin": "width depths heads window",
    "unet": "width blocks most_width",
    "mae": "decoder_width decoder_depth decoder_heads",
    "simclr": "projection_width",
    "unetr": "feature_size",
    "pretrain": "steps batch accumulate crops_per_scan validate_every checkpoint_every",
    "finetune": "steps batch accumulate crops_per_scan validate_every checkpoint_every",
}


def packaged_recipes() -> dict[str, str]:
    """Each packaged recipe's name and its line on what it is for."""
    return {name: yaml.safe_load(file.read_text())["about"] for name, file in _packaged_files().items()}


def _packaged_files() -> dict[str, Traversable]:
    files = sorted((resources.files("voxmim") / "recipes").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a packaged recipe or a YAML file and apply overrides such as ``{"mask.ratio": 0.6}``.

    Raises:
        RecipeError: no such recipe, an unknown key (the nearest one is named), or a value that does not fit.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such recipe file; 'voxmim recipes' lists the packaged ones.")
        text = path.read_text()
    else:
        known = _packaged_files()
        if str(name_or_file) not in known:
            hint = nearest(str(name_or_file), known) or f"; the packaged ones are {', '.join(known)}."
            raise RecipeError(f"recipe '{name_or_file}' is not known{hint}")
        text = known[str(name_or_file)].read_text()
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{name_or_file}: this is not valid YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(settings, dict):
        raise RecipeError(f"{name_or_file}: a recipe is a mapping of settings to values.")
    settings = _with_sizes(settings, str(name_or_file))
    for key, value in (overrides or {}).items():
        _set(settings, key, value)
    return make_recipe(settings, str(name_or_file))


def make_recipe(settings: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Build a recipe from nested settings, each checked for its name, its type and its sense.

    ``vit.size`` (tiny, small, base, large) and ``swin.size`` (tiny, small, base) stand for width, depth and heads;
    what stands beside them counts more.

    Raises:
        RecipeError: names `origin`, the key, what is wrong, and the nearest known key.
    """
    settings = _with_sizes(settings, origin)
    _check_keys(settings, Recipe, origin)
    if "precision" in settings:
        settings = {**settings, "precision": str(settings["precision"])}  # YAML reads an unquoted 16 as a number
    parser = _parser()
    try:
        recipe = Recipe(**dict(parser.instantiate(parser.parse_object(dict(settings))).items()))
    except Exception as error:  # the parser raises several kinds, all of them about a value
        text = " ".join(str(error).split())
        raise RecipeError(f"{origin}: a setting has a value that does not fit ({text[:300]}).") from None
    check_recipe(recipe, origin)
    return recipe


@cache
def _parser() -> ArgumentParser:
    """What checks the types of a recipe's settings; to make one takes as long as to use it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def recipe_to_yaml(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return yaml.safe_dump(plain(asdict(recipe)), sort_keys=False, default_flow_style=None)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the fully resolved recipe in one stroke."""
    write_text(path, recipe_to_yaml(recipe))


def with_crop(recipe: Recipe, shapes: Sequence[Triple], origin: str, masked: bool = True) -> Recipe:
    """The recipe with a crop: its own, or one fitted to a store's scans.

    Raises:
        RecipeError: the crop does not fit the encoder or, where something is `masked`, the masks.
    """
    if recipe.crop is None:
        cell, unit = recipe.encoder_settings.patch, recipe.mask_unit or (1, 1, 1)
        x, y, z = (math.lcm(c, u) for c, u in zip(cell, unit, strict=True))
        recipe = replace(recipe, crop=fit_crop(shapes, (x, y, z), recipe.crop_voxels))
    _check_crop(recipe, origin)
    if masked:
        _check_masks(recipe, origin)
    return recipe


def fit_crop(shapes: Sequence[Triple], patch: Triple, most_voxels: int) -> Triple:
    """A crop that fits the store: the scans' median shape, shrunk to at most `most_voxels`, in whole patches.

    The longest axes are cut first, so that short ones stay whole.
    """
    crop = []
    for axis in range(3):
        middle = sorted(shape[axis] for shape in shapes)[len(shapes) // 2]
        crop.append(max(1, -(-middle // patch[axis])) * patch[axis])
    while crop[0] * crop[1] * crop[2] > most_voxels:
        axis = max(range(3), key=lambda a: (crop[a] > patch[a], crop[a]))
        if crop[axis] <= patch[axis]:
            break
        crop[axis] -= patch[axis]
    return crop[0], crop[1], crop[2]


def _with_sizes(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The settings with each encoder's `size` written out."""
    written = dict(settings)
    for encoder in SIZES:
        group = written.get(encoder)
        if isinstance(group, Mapping) and "size" in group:
            rest = {key: value for key, value in group.items() if key != "size"}
            written[encoder] = _size(encoder, group["size"], origin) | rest
    return written


def _size(encoder: str, size: Any, origin: str) -> dict[str, Any]:
    if str(size) not in SIZES[encoder]:
        raise RecipeError(f"{origin}: {encoder}.size is {size}, but must be {', '.join(SIZES[encoder])}.")
    return SIZES[encoder][str(size)]


def _set(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, last = dotted.split(".")
    if last == "size" and groups and groups[0] in SIZES:  # it overrides what the recipe says of width, depth and heads
        for key, number in _size(groups[0], value, f"--set {dotted}").items():
            _set(settings, f"{groups[0]}.{key}", number)
        return
    for group in groups:
        inner = settings.setdefault(group, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {dotted}: '{group}' is a single value, not a group of settings.")
        settings = inner
    settings[last] = value


def _check_keys(settings: Mapping[str, Any], kind: type, origin: str, above: str = "") -> None:
    hints = get_type_hints(kind)
    for key, value in settings.items():
        if key not in hints:
            raise RecipeError(f"{origin}: '{above}{key}' is not a setting{nearest(str(key), hints) or '.'}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{origin}: '{above}{key}' is a group of settings, but has the single value {value}.")
            _check_keys(value, hints[key], origin, f"{above}{key}.")


def check_recipe(recipe: Recipe, origin: str) -> None:
    """What types cannot say: whether values make sense, and go together.

    Raises:
        RecipeError: names `origin`, what is wrong, and what would do.
    """

    def refuse(wrong: str) -> None:
        raise RecipeError(f"{origin}: {wrong}.")

    for group, keys in _COUNTS.items():
        for key in keys.split():
            value = getattr(getattr(recipe, group) if group else recipe, key)
            if (min(value, default=0) if isinstance(value, tuple) else value) < 1:
                refuse(f"{group}.{key} is {value}, but must be at least 1".removeprefix("."))
    vit, swin, mae, mask = recipe.vit, recipe.swin, recipe.mae, recipe.mask
    if any(p not in (1, 2, 4, 8, 16, 32) for p in vit.patch) or max(vit.patch) == 1:
        refuse(f"vit.patch {vit.patch} must be 2, 4, 8, 16 or 32 along each axis, or 1 along one or two of them")
    if vit.registers < 0:
        refuse(f"vit.registers is {vit.registers}, but must be at least 0")
    if swin.patch not in ((2, 2, 2), (4, 4, 4)):
        refuse(f"swin.patch {swin.patch} must be 2 or 4, the same along each axis")
    if len(swin.depths) != len(swin.heads) or not 2 <= len(swin.depths) <= 4:
        refuse(f"swin.depths {swin.depths} and swin.heads {swin.heads} must have one number for each of 2 to 4 stages")
    stages = [(swin.width * 2**stage, heads) for stage, heads in enumerate(swin.heads)]
    if any(width % heads for width, heads in [(vit.width, vit.heads), (mae.decoder_width, mae.decoder_heads), *stages]):
        refuse("a width must be a multiple of its number of heads")
    if recipe.seed < 0:
        refuse(f"seed is {recipe.seed}, but must be at least 0")
    if not 0 <= recipe.max_damaged <= 1:
        refuse(f"max_damaged is {recipe.max_damaged}, but must lie from 0 to 1")
    if not 0 < mask.ratio < 1:
        refuse(f"mask.ratio is {mask.ratio}, but must lie between 0 and 1")
    if not 0 <= mask.body_share <= 1:
        refuse(f"mask.body_share is {mask.body_share}, but must lie from 0 to 1")
    if not 0 < mae.share <= 1 or (mae.share < 1 and not mae.cross):
        refuse(f"mae.share is {mae.share}, but must lie above 0 and up to 1, and below 1 only with mae.cross")
    if recipe.simclr.temperature <= 0 or not 0 <= recipe.simclr.overlap <= 1:
        refuse("simclr.temperature must be above 0 and simclr.overlap from 0 to 1")
    if recipe.window[0] >= recipe.window[1]:
        refuse(f"window {recipe.window} must rise")
    if not 0 <= recipe.overlap < 1:
        refuse(f"overlap is {recipe.overlap}, but must lie from 0 to under 1")
    for name, training in (("pretrain", recipe.pretrain), ("finetune", recipe.finetune)):
        if training.lr <= 0 or not 0 <= training.warmup <= 1:
            refuse(f"{name}.lr must be above 0 and {name}.warmup from 0 to 1")
        if training.batch % (recipe.nodes * recipe.devices * training.accumulate):
            parts = f"nodes {recipe.nodes} x devices {recipe.devices} x accumulate {training.accumulate}"
            refuse(f"{name}.batch {training.batch} must be a multiple of {parts}")
        if training.layer_decay <= 0 or training.clip < 0:
            refuse(f"{name}.layer_decay must be above 0 and {name}.clip at least 0")
        if not 0 <= training.ema < 1 or not 0 <= training.freeze <= 1:
            refuse(f"{name}.ema must lie from 0 to under 1 and {name}.freeze from 0 to 1")
        _check_augmentation(training.augmentation, f"{origin}: {name}.augmentation")
    if recipe.pretrain.freeze:
        refuse(f"pretrain.freeze is {recipe.pretrain.freeze}, but the encoder is what a pre-training trains; leave it")
    if recipe.strategy == "fsdp" and recipe.precision == "16":
        refuse("strategy fsdp does not go with precision 16; take bf16 or 32")
    _check_choices(recipe, origin)
    if recipe.crop is not None:
        _check_crop(recipe, origin)


def _check_augmentation(augmentation: Augmentation, origin: str) -> None:
    """Whether chances are chances, and amounts leave a crop that shows something."""
    values = dataclasses.asdict(augmentation)
    for key in ("flip", "rot90", "affine", "elastic", "intensity"):
        if not 0 <= values[key] <= 1:
            raise RecipeError(f"{origin}.{key} is {values[key]}, but must lie from 0 to 1.")
    for key in ("rotate", "displace", "shift", "contrast", "noise", "gamma", "blur", "low_resolution"):
        if values[key] < 0:
            raise RecipeError(f"{origin}.{key} is {values[key]}, but must be at least 0.")
    if not 0 <= augmentation.scale < 1:
        raise RecipeError(f"{origin}.scale is {augmentation.scale}, but must lie from 0 to under 1.")
    if augmentation.displace > 0.4 * augmentation.control:
        raise RecipeError(
            f"{origin}.displace {augmentation.displace} would fold the scan onto itself; it must be at most 0.4 of "
            f"control, {augmentation.control}."
        )


def _check_choices(recipe: Recipe, origin: str) -> None:
    """Whether encoder, pretext and what depends on them go together."""

    def refuse(wrong: str) -> None:
        raise RecipeError(f"{origin}: {wrong}.")

    if recipe.encoder not in FITTING[recipe.pretext]:
        fitting = " or ".join(FITTING[recipe.pretext])
        refuse(f"the pretext {recipe.pretext} cannot pre-train the encoder {recipe.encoder}; take {fitting}")
    if recipe.pretext == "simclr" and recipe.pretrain.batch < 2:
        refuse("pretrain.batch is 1, but SimCLR tells pairs from each other and needs 2 or more")
    if recipe.pretext == "simclr" and recipe.pretrain.accumulate > 1:
        refuse("pretrain.accumulate must be 1 with SimCLR, which compares all pairs of a step with each other")
    if (recipe.encoder, recipe.pretext, recipe.mae.target) == ("unet", "mae", "normalised"):
        refuse("mae.target is normalised, but the unet's MAE predicts raw voxels")
    if recipe.carry_decoder and recipe.encoder != "unet":
        refuse(f"carry_decoder is told, but the encoder {recipe.encoder} has no decoder that fine-tuning shares")


def _check_crop(recipe: Recipe, origin: str) -> None:
    """Whether the crop can be cut into patches, and those into cells of a deepest map, more than one of them."""
    crop, cell = recipe.crop, recipe.encoder_settings.patch
    assert crop is not None
    if _odd(crop, cell):
        raise RecipeError(
            f"{origin}: the crop {crop} is not a whole number of patches {cell}; change crop or {recipe.encoder}.patch."
            if recipe.encoder != "unet"
            else f"{origin}: the crop {crop} cannot be halved into cells of {cell}; change crop or unet.blocks."
        )
    if recipe.encoder != "vit" and all(c <= s for c, s in zip(crop, recipe.encoder_settings.stride, strict=True)):
        raise RecipeError(
            f"{origin}: a crop of {crop} voxels is a single cell of the {recipe.encoder}'s deepest map; take a larger "
            "crop, or fewer levels."
        )


def _check_masks(recipe: Recipe, origin: str) -> None:
    """Whether the crop can be cut into mask units, more than one of them; only a pre-training hides anything."""
    crop, unit, patch = recipe.crop, recipe.mask_unit, recipe.encoder_settings.patch
    if unit is not None and _odd(unit, patch):
        raise RecipeError(
            f"{origin}: mask.unit {unit} is not a whole number of the {recipe.encoder}'s patches {patch}; change it."
        )
    if crop is not None and unit is not None and _odd(crop, unit):
        raise RecipeError(f"{origin}: the crop {crop} is not a whole number of mask units {unit}; change mask.unit.")
    if crop is not None and crop == unit:
        raise RecipeError(
            f"{origin}: a crop of {crop} voxels is a single mask unit, and nothing could be hidden in it; "
            "take a larger crop, or smaller patches."
        )


def _odd(size: Triple, part: Triple) -> bool:
    """Whether a box is no whole number of parts, or none at all."""
    return any(s <= 0 or p <= 0 or s % p for s, p in zip(size, part, strict=True))

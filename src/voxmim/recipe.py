"""All settings, in one place: dataclasses whose defaults are the paper's, filled from short YAML recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from voxmim.errors import RecipeError, nearest
from voxmim.files import write_text


@dataclass
class ViTSettings:
    """The encoder: a vision transformer on 3D patches.

    Attributes:
        patch: voxels of a patch along X, Y, Z.
        width: of a token.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of a block's MLP over the token's width.
        positions: fixed sine-cosine code, or a learned table (interpolated when the grid changes).
        rotary: let attention see how far apart two tokens are, too (rotary code on queries and keys).
        drop_path: chance at the last block that a sample skips it (stochastic depth, rising linearly from 0).
    """

    patch: tuple[int, int, int] = (16, 16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    positions: Literal["sincos", "learned"] = "sincos"
    rotary: bool = False
    drop_path: float = 0.0


@dataclass
class MAESettings:
    """The pretext task: a masked autoencoder.

    Attributes:
        ratio: share of patches that are hidden.
        decoder_width: of the decoder's tokens.
        decoder_depth: number of the decoder's blocks.
        decoder_heads: the decoder's attention heads.
        target: raw voxels, or voxels normalised per patch.
        loss: mean absolute (l1) or squared (l2) error over the hidden patches.
    """

    ratio: float = 0.75
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 8
    target: Literal["raw", "normalised"] = "raw"
    loss: Literal["l1", "l2"] = "l1"


@dataclass
class UNETRSettings:
    """The segmentor's decoder.

    Attributes:
        feature_size: channels at full resolution; doubled at each level below.
        stem: feed the image itself into the full-resolution level, as UNETR does.
    """

    feature_size: int = 16
    stem: bool = True


@dataclass
class Augmentation:
    """Random changes of a crop; every chance is per crop.

    Attributes:
        flip: chance of a flip, per axis.
        rot90: chance of a quarter turn in the X-Y plane (only where the crop is square there).
        affine: chance of a rotation and scaling.
        rotate: largest rotation about each axis, degrees.
        scale: largest relative change of size.
        shift: largest change of brightness, as a share of the intensity range (CT) or in standard deviations (MR).
        contrast: largest relative change of contrast.
        noise: largest standard deviation of added noise.
        intensity: chance of each of the three intensity changes.
    """

    flip: float = 0.1
    rot90: float = 0.1
    affine: float = 0.0
    rotate: float = 15.0
    scale: float = 0.15
    shift: float = 0.1
    contrast: float = 0.0
    noise: float = 0.0
    intensity: float = 0.5


@dataclass
class Training:
    """How one training goes.

    Attributes:
        steps: optimiser steps.
        batch: crops per step, over all devices.
        crops_per_scan: crops cut from each scan that is opened.
        lr: peak learning rate.
        weight_decay: of AdamW; norms, biases and position codes are exempt.
        warmup: share of the steps with a linearly rising rate; a cosine to zero follows.
        layer_decay: factor on the rate for each layer further from the output (1 is off).
        clip: largest norm of the gradient (0 is off).
        validate_every: steps between two validations.
        checkpoint_every: steps between two writings of last.ckpt.
        foreground: share of crops centred on a labelled voxel (fine-tuning only).
        augmentation: random changes of the crops.
    """

    steps: int = 18000
    batch: int = 16
    crops_per_scan: int = 4
    lr: float = 3e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    layer_decay: float = 1.0
    clip: float = 1.0
    validate_every: int = 500
    checkpoint_every: int = 500
    foreground: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass
class Recipe:
    """Everything that a training can be told.

    Attributes:
        about: one line on what the recipe is for.
        crop: voxels of a crop along X, Y, Z; null fits it to the store (see `fit_crop`).
        crop_voxels: the most voxels of a fitted crop.
        window: HU range that becomes 0..1 (CT only).
        overlap: of neighbouring windows when a whole scan is labelled, as a share of the window.
        precision: bf16, 16 (GPU only) or 32.
        devices: number of processes or GPUs.
        seed: of everything random.
        vit: the encoder.
        mae: the pretext task.
        unetr: the segmentor's decoder.
        pretrain: the pre-training.
        finetune: the fine-tuning.
        scratch_lr: the peak rate of a fine-tuning that starts from scratch; null takes finetune.lr.
        rates: the peak rates of which each arm of a comparison takes the one that does best on validation cases.
    """

    about: str = ""
    crop: tuple[int, int, int] | None = (96, 96, 96)
    crop_voxels: int = 96**3
    window: tuple[float, float] = (-175.0, 250.0)
    overlap: float = 0.5
    precision: Literal["bf16", "16", "32"] = "bf16"
    devices: int = 1
    seed: int = 0
    vit: ViTSettings = field(default_factory=ViTSettings)
    mae: MAESettings = field(default_factory=MAESettings)
    unetr: UNETRSettings = field(default_factory=UNETRSettings)
    pretrain: Training = field(default_factory=Training)
    finetune: Training = field(default_factory=Training)
    scratch_lr: float | None = None
    rates: tuple[float, ...] = (1e-3, 3e-4)


def packaged_recipes() -> dict[str, str]:
    """Each packaged recipe's name and its line on what it is for."""
    folder = resources.files("voxmim") / "recipes"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            found[file.name.removesuffix(".yaml")] = yaml.safe_load(file.read_text())["about"]
    return found


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a packaged recipe or a YAML file and apply overrides such as ``{"mae.ratio": 0.6}``.

    Raises:
        RecipeError: no such recipe, an unknown key (the nearest one is named), or a value that does not fit.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such recipe file; 'voxmim recipes' lists the packaged ones.")
        text = path.read_text()
    else:
        known = packaged_recipes()
        if str(name_or_file) not in known:
            hint = nearest(str(name_or_file), known) or f"; the packaged ones are {', '.join(known)}."
            raise RecipeError(f"recipe '{name_or_file}' is not known{hint}")
        text = (resources.files("voxmim") / "recipes" / f"{name_or_file}.yaml").read_text()
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{name_or_file}: this is not valid YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(settings, dict):
        raise RecipeError(f"{name_or_file}: a recipe is a mapping of settings to values.")
    for key, value in (overrides or {}).items():
        _set(settings, key, value)
    return make_recipe(settings, str(name_or_file))


def make_recipe(settings: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Build a recipe from nested settings, each checked for its name, its type and its sense.

    Raises:
        RecipeError: names `origin`, the key, what is wrong, and the nearest known key.
    """
    _check_keys(settings, Recipe, origin)
    if "precision" in settings:
        settings = {**settings, "precision": str(settings["precision"])}  # YAML reads an unquoted 16 as a number
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        recipe = Recipe(**dict(parser.instantiate(parser.parse_object(dict(settings))).items()))
    except Exception as error:  # the parser raises several kinds, all of them about a value
        text = " ".join(str(error).split())
        raise RecipeError(f"{origin}: a setting has a value that does not fit ({text[:300]}).") from None
    _check_sense(recipe, origin)
    return recipe


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


def fit_crop(
    shapes: Sequence[tuple[int, int, int]], patch: tuple[int, int, int], most_voxels: int
) -> tuple[int, int, int]:
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


def _set(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, last = dotted.split(".")
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


def _check_sense(recipe: Recipe, origin: str) -> None:
    """What types cannot say."""

    def refuse(wrong: str) -> None:
        raise RecipeError(f"{origin}: {wrong}.")

    vit, mae = recipe.vit, recipe.mae
    for group, keys in (
        ("", "crop_voxels devices"),
        ("vit", "width depth heads"),
        ("mae", "decoder_width decoder_depth decoder_heads"),
        ("unetr", "feature_size"),
        ("pretrain", "steps batch crops_per_scan validate_every checkpoint_every"),
        ("finetune", "steps batch crops_per_scan validate_every checkpoint_every"),
    ):
        for key in keys.split():
            value = getattr(getattr(recipe, group) if group else recipe, key)
            if value < 1:
                refuse(f"{group}.{key} is {value}, but must be at least 1".removeprefix("."))
    if any(p not in (2, 4, 8, 16, 32) for p in vit.patch) or len(set(vit.patch)) > 1:
        refuse(f"vit.patch {vit.patch} must be 2, 4, 8, 16 or 32, the same along each axis")
    if recipe.crop is not None and any(c % p or c <= 0 for c, p in zip(recipe.crop, vit.patch, strict=True)):
        refuse(f"the crop {recipe.crop} is not a whole number of patches {vit.patch}; change crop or vit.patch")
    if vit.width % vit.heads or mae.decoder_width % mae.decoder_heads:
        refuse("a width must be a multiple of its number of heads")
    if recipe.seed < 0:
        refuse(f"seed is {recipe.seed}, but must be at least 0")
    if not 0 < mae.ratio < 1:
        refuse(f"mae.ratio is {mae.ratio}, but must lie between 0 and 1")
    if recipe.window[0] >= recipe.window[1]:
        refuse(f"window {recipe.window} must rise")
    if not 0 <= recipe.overlap < 1:
        refuse(f"overlap is {recipe.overlap}, but must lie from 0 to under 1")
    for name, training in (("pretrain", recipe.pretrain), ("finetune", recipe.finetune)):
        if training.lr <= 0 or not 0 <= training.warmup <= 1:
            refuse(f"{name}.lr must be above 0 and {name}.warmup from 0 to 1")
        if training.batch % recipe.devices:
            refuse(f"{name}.batch {training.batch} must be a multiple of devices {recipe.devices}")

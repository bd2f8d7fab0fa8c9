"""Reading, checking and writing recipes, which are short YAML files of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from voxmim.errors import RecipeError, nearest
from voxmim.files import write_text
from voxmim.settings import (
    EncoderSettings,
    MaskSettings,
    Precision,
    SelfTrainingSettings,
    Training,
    Triple,
    UNETRSettings,
    check_range,
    with_current_names,
)

if TYPE_CHECKING:  # they need torch, whose import takes seconds
    from voxmim.networks.build import EncoderEntry
    from voxmim.pretext.pretext import Pretext


@dataclass
class Recipe:
    """All settings of a pre-training and a fine-tuning.

    In YAML, the settings of the encoder and the pretext are groups with their names. Settings of other encoders and
    pretexts are checked and ignored.

    Attributes:
        about: one line on what the recipe is for.
        crop: voxels of a crop along X, Y, Z; null fits it to the store (see `fit_crop`).
        crop_voxels: maximum voxels of a fitted crop.
        window: HU range that is mapped to 0..1 (CT only).
        channels: the channels in a pre-training crop: all; a random subset (drawn), so that the encoder copes with
            missing channels; or a single one (one), so that the encoder has one input.
        overlap: overlap of sliding windows as a fraction of the window; validations have no overlap.
        precision: auto (bf16 where the device is fast at it, else 32), bf16, 16 (GPU only) or 32.
        devices: number of processes or GPUs per node.
        nodes: number of machines.
        compile: use torch.compile.
        max_damaged: maximum fraction of a training's scans that may be missing or damaged; they are skipped and
            reported. If there are more, the training ends.
        seed: of everything random.
        encoder: the network that is pre-trained.
        encoder_settings: its settings.
        pretext: the self-supervised task.
        pretext_settings: its settings.
        mask: what MAE and SimMIM mask.
        scans: number of scans to pre-train on, a random sample; null uses all.
        unetr: the decoder of a segmentor.
        carry_decoder: start the fine-tuning of a U-Net from the decoder of its MAE too.
        pretrain: the pre-training.
        finetune: the fine-tuning.
        self_training: self-training of a fine-tuning on unlabelled scans.
        scratch_lr: peak learning rate of a fine-tuning from scratch; null uses finetune.lr.
        lrs: peak learning rates that a study tries; each arm uses the best one on validation cases.
    """

    about: str = ""
    crop: Triple | None = (96, 96, 96)
    crop_voxels: int = 96**3
    window: tuple[float, float] = (-175.0, 250.0)
    channels: Literal["all", "drawn", "one"] = "all"
    overlap: float = 0.5
    precision: Precision = "auto"
    devices: int = 1
    nodes: int = 1
    compile: bool = False
    max_damaged: float = 0.05
    seed: int = 0
    encoder: str = "vit"
    encoder_settings: EncoderSettings = field(default=None)  # type: ignore[assignment]
    pretext: str = "mae"
    pretext_settings: Any = None
    mask: MaskSettings = field(default_factory=MaskSettings)
    scans: int | None = None
    unetr: UNETRSettings = field(default_factory=UNETRSettings)
    carry_decoder: bool = False
    pretrain: Training = field(default_factory=Training)
    finetune: Training = field(default_factory=Training)
    self_training: SelfTrainingSettings = field(default_factory=SelfTrainingSettings)
    scratch_lr: float | None = None
    lrs: tuple[float, ...] = (1e-3, 3e-4)

    def __post_init__(self) -> None:
        """Set default settings and check combinations of settings.

        Raises:
            ValueError: a setting is not valid.
        """
        from voxmim.pretext.build import PRETEXTS

        self.encoder_settings = self.encoder_settings or self.encoder_entry.settings()
        self.pretext_settings = self.pretext_settings or _known(self.pretext, PRETEXTS, "pretext").Settings()
        check_range(self, "crop_voxels devices nodes" + " scans" * (self.scans is not None), 1)
        check_range(self, "max_damaged", 0, 1)
        check_range(self, "overlap", 0, 1, "[)")
        check_range(self, "seed", 0)
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window {self.window} must rise")
        for name, training in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if training.batch % (self.nodes * self.devices * training.accumulate):
                parts = f"nodes {self.nodes} x devices {self.devices} x accumulate {training.accumulate}"
                raise ValueError(f"{name}.batch {training.batch} must be a multiple of {parts}")
        if self.pretrain.freeze:
            raise ValueError(f"pretrain.freeze is {self.pretrain.freeze}, but a pre-training trains the encoder; use 0")
        if not self.pretrain.steps:
            raise ValueError(f"pretrain.steps is {self.pretrain.steps}, but must be at least 1")
        if self.self_training.weight and not self.finetune.ema:
            raise ValueError(
                "self_training needs averaged weights, which label the scans; set finetune.ema, such as to 0.99"
            )
        self.encoder_entry.segmentor.check(self.encoder_settings)
        self.pretext_class.check(self.pretext_settings, self.pretrain)
        if self.carry_decoder and not self.encoder_entry.segmentor.carries_decoder:
            raise ValueError(f"carry_decoder is set, but the encoder {self.encoder} has no decoder to carry")
        if self.crop is not None:
            self._check_crop(self.crop)

    @property
    def encoder_entry(self) -> EncoderEntry:
        from voxmim.networks.build import ENCODERS

        return _known(self.encoder, ENCODERS, "encoder")

    @property
    def pretext_class(self) -> type[Pretext]:
        """The pretext's class for the encoder.

        Raises:
            ValueError: the pretext is unknown, or cannot pre-train the encoder.
        """
        from voxmim.networks.build import ENCODERS
        from voxmim.pretext.build import PRETEXTS

        chosen = _known(self.pretext, PRETEXTS, "pretext").for_encoder(self.encoder_entry.encoder)
        if chosen is None:
            fits = [name for name, entry in ENCODERS.items() if PRETEXTS[self.pretext].for_encoder(entry.encoder)]
            raise ValueError(
                f"the pretext {self.pretext} cannot pre-train the encoder {self.encoder}; use {' or '.join(fits)}"
            )
        return chosen

    @property
    def mask_unit(self) -> Triple | None:
        """The size of a mask unit in voxels, or None if the pretext does not mask."""
        return (self.mask.unit or self.encoder_settings.patch) if self.pretext_class.masked else None

    @property
    def crop_unit(self) -> Triple:
        """The smallest box of whole patches and mask units, in voxels; pre-training crops are multiples of it."""
        x, y, z = map(math.lcm, self.encoder_settings.patch, self.mask_unit or (1, 1, 1))
        return x, y, z

    def check_masks(self) -> None:
        """Check that the crop consists of two or more whole mask units, for a pre-training.

        Raises:
            ValueError: it does not.
        """
        unit, patch = self.mask_unit, self.encoder_settings.patch
        if unit is None:
            return
        if self.pretext_class.whole_patches and not _divides(patch, unit):
            raise ValueError(f"mask.unit {unit} is not a multiple of the {self.encoder}'s patch {patch}")
        if self.crop is not None and not _divides(unit, self.crop):
            raise ValueError(f"the crop {self.crop} is not a multiple of the mask unit {unit}; change mask.unit")
        if self.crop == unit:
            raise ValueError(
                f"a crop of {self.crop} voxels is a single mask unit, so that nothing could be masked in it; "
                "use a larger crop or smaller patches"
            )

    def _check_crop(self, crop: Triple) -> None:
        settings = self.encoder_settings
        if not _divides(settings.patch, crop):
            raise ValueError(
                f"the crop {crop} is not a multiple of the {self.encoder}'s patch {settings.patch}; change crop or the "
                f"settings of {self.encoder}"
            )
        if math.prod(-(-c // s) for c, s in zip(crop, settings.stride, strict=True)) < settings.min_cells:
            raise ValueError(
                f"a crop of {crop} voxels is a single cell of the {self.encoder}'s bottleneck features; use a larger "
                "crop or fewer levels"
            )


def packaged_recipes() -> dict[str, str]:
    """The packaged recipes' names and descriptions."""
    return {name: yaml.safe_load(file.read_text())["about"] for name, file in _packaged_files().items()}


def _packaged_files() -> dict[str, Traversable]:
    files = sorted((resources.files("voxmim") / "recipes").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a packaged recipe or a YAML file and apply overrides such as ``{"mask.ratio": 0.6}``.

    Raises:
        RecipeError: there is no such recipe, a key is unknown, or a value is not valid.
    """
    path, origin = Path(name_or_file), str(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such recipe file; 'voxmim recipes' lists the packaged ones.")
        text = path.read_text()
    else:
        known = _packaged_files()
        if origin not in known:
            hint = nearest(origin, known) or f"; the packaged ones are {', '.join(known)}."
            raise RecipeError(f"recipe '{origin}' is not known{hint}")
        text = known[origin].read_text()
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin}: this is not valid YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(settings, dict):
        raise RecipeError(f"{origin}: a recipe is a mapping of settings to values.")
    settings = with_current_names(settings, origin)
    for key, value in (overrides or {}).items():
        _override(settings, key, value)
    return make_recipe(settings, origin)


def make_recipe(settings: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Build a recipe from nested settings and check their names, types and values.

    ``vit.size`` (tiny, small, base, large) and ``swin.size`` (tiny, small, base) set width, depth and heads; other
    settings of the encoder take precedence.

    Raises:
        RecipeError: a key is unknown, or a value is not valid; the message begins with `origin`.
    """
    kinds = _kinds()
    settings = _expand_sizes(with_current_names(settings, origin), kinds, origin)
    _check_keys(settings, kinds, origin)
    if "precision" in settings:
        settings["precision"] = str(settings["precision"])  # YAML reads an unquoted 16 as a number
    try:
        parsed = _parser(tuple(kinds.items())).parse_object(settings, defaults=False).as_dict()
    except Exception as error:  # the parser raises several kinds for invalid values
        text = " ".join(str(error).split())
        raise RecipeError(f"{origin}: a setting has a value that does not fit ({text[:300]}).") from None
    values = {name: _instantiate(kinds[name], value, f"{origin}: {name}.") for name, value in parsed.items()}
    own = {name: values.pop(name) for name in parsed if name not in Recipe.__dataclass_fields__}
    for name in ("encoder", "pretext"):
        values[f"{name}_settings"] = own.get(values.get(name, getattr(Recipe, name)))
    try:
        return Recipe(**values)
    except ValueError as error:
        raise RecipeError(f"{origin}: {error}.") from None


def _kinds() -> dict[str, Any]:
    """The types of all settings and the dataclasses of all groups of settings in a recipe file."""
    from voxmim.networks.build import ENCODERS
    from voxmim.pretext.build import PRETEXTS

    own = {name: kind for name, kind in get_type_hints(Recipe).items() if not name.endswith("_settings")}
    encoders = {name: entry.settings for name, entry in ENCODERS.items()}
    return own | encoders | {name: pretext.Settings for name, pretext in PRETEXTS.items()}


@cache
def _parser(kinds: tuple[tuple[str, Any], ...]) -> ArgumentParser:
    """The parser that converts and checks types; cached, because creating it takes longer than using it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, skip={"encoder_settings", "pretext_settings"})
    for name, kind in kinds:
        if name not in Recipe.__dataclass_fields__:
            parser.add_class_arguments(kind, name)
    return parser


def _instantiate(kind: Any, value: Any, prefix: str) -> Any:
    """A group of parsed settings as its dataclass; error messages begin with the `prefix`."""
    if value is None and type(None) not in get_args(kind):
        raise RecipeError(f"{prefix.removesuffix('.')} is null, which is not a value of this setting.")
    if not isinstance(value, dict):
        return value
    hints = get_type_hints(kind)
    values = {name: _instantiate(hints[name], inner, f"{prefix}{name}.") for name, inner in value.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{prefix}{error}.") from None


def recipe_to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, from which `load_recipe` reads an equal recipe."""
    groups = {"encoder_settings": recipe.encoder, "pretext_settings": recipe.pretext}
    values = {groups.get(name, name): value for name, value in asdict(recipe).items()}
    lists_for_tuples = json.loads(json.dumps(values))
    return yaml.safe_dump(lists_for_tuples, sort_keys=False, default_flow_style=None)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the resolved recipe."""
    write_text(path, recipe_to_yaml(recipe))


def with_crop(recipe: Recipe, shapes: Sequence[Triple], origin: str, masked: bool = True) -> Recipe:
    """The recipe with a crop: its own, or one that is fitted to a store's scans.

    Raises:
        RecipeError: the crop does not fit the encoder or, with `masked`, the masks.
    """
    try:
        if recipe.crop is None:
            recipe = replace(recipe, crop=fit_crop(shapes, recipe.crop_unit, recipe.crop_voxels))
        else:
            recipe = replace(recipe)
        if masked:
            recipe.check_masks()
    except ValueError as error:
        raise RecipeError(f"{origin}: {error}.") from None
    return recipe


def fit_crop(shapes: Sequence[Triple], patch: Triple, max_voxels: int) -> Triple:
    """The scans' median shape as a multiple of the patch, with the longest axes shortened to at most `max_voxels`."""
    crop = []
    for axis in range(3):
        median = sorted(shape[axis] for shape in shapes)[len(shapes) // 2]
        crop.append(max(1, -(-median // patch[axis])) * patch[axis])
    while crop[0] * crop[1] * crop[2] > max_voxels:
        axis = max(range(3), key=lambda a: (crop[a] > patch[a], crop[a]))
        if crop[axis] <= patch[axis]:
            break
        crop[axis] -= patch[axis]
    return crop[0], crop[1], crop[2]


def _expand_sizes(settings: Mapping[str, Any], kinds: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Replace the `size` of an encoder by its settings."""
    expanded = dict(settings)
    for name, group in settings.items():
        sizes = getattr(kinds.get(name), "sizes", None)
        if sizes and isinstance(group, Mapping) and "size" in group:
            others = dict(group)
            if (size := str(others.pop("size"))) not in sizes:
                raise RecipeError(f"{origin}: {name}.size is {size}, but must be {', '.join(sizes)}.")
            expanded[name] = sizes[size] | others
    return expanded


def _override(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, last = dotted.split(".")
    for group in groups:
        inner = settings.setdefault(group, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {dotted}: '{group}' is a single value, not a group of settings.")
        settings = inner
    if last == "size":  # overrides width, depth and heads of the recipe
        sizes = getattr(_kinds().get(groups[-1]), "sizes", {}) if groups else {}
        for key in sizes.get(str(value), {}):
            settings.pop(key, None)
    settings[last] = value


def _check_keys(settings: Mapping[str, Any], kinds: Mapping[str, Any], origin: str, above: str = "") -> None:
    for key, value in settings.items():
        if key not in kinds:
            close = nearest(f"{above}{key}", [f"{above}{name}" for name in kinds])
            raise RecipeError(f"{origin}: '{above}{key}' is not a setting{close or '.'}")
        if is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{origin}: '{above}{key}' is a group of settings, but has the single value {value}.")
            _check_keys(value, get_type_hints(kinds[key]), origin, f"{above}{key}.")


def _known(name: str, registry: Mapping[str, Any], what: str) -> Any:
    if name not in registry:
        raise ValueError(f"{what} is {name}, but must be {' or '.join(registry)}")
    return registry[name]


def _divides(part: Triple, size: Triple) -> bool:
    """Whether a box consists of whole parts."""
    return all(s > 0 and p > 0 and s % p == 0 for s, p in zip(size, part, strict=True))

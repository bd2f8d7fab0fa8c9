"""Settings of all trainings, with defaults (the paper's) and checks.

The settings of an encoder or a pretext are in its file. This module does not import torch.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

Triple = tuple[int, int, int]
Precision = Literal["auto", "bf16", "16", "32"]
Bounds = Literal["[]", "(]", "[)", "()"]
if TYPE_CHECKING:
    Steps = int  # `training.length.with_steps` sets them before they are used
else:
    Steps = int | None  # in a recipe

RENAMED_COLUMNS = {"val_constant": "val_guess", "val_spread": "val_std"}  # of metrics.csv

LOGGER = logging.getLogger("voxmim")

# Renamed settings by group, for old recipes, run folders and weights.
RENAMED: dict[str, dict[str, str]] = {
    "": {"rates": "lrs"},
    "vit": {"positions": "position_embedding", "rotary": "rope", "checkpoint": "grad_checkpointing"},
    "swin": {"checkpoint": "grad_checkpointing"},
    "unet": {"most_width": "max_width"},
    "mask": {"body_share": "body_fraction"},
    "mae": {"cross": "cross_attention", "share": "predicted_fraction"},
}

REMOVED = ("strategy",)  # settings of old recipes that are ignored

_IN_WORDS = {
    "[]": "from {} to {}",
    "(]": "above {} and up to {}",
    "[)": "from {} to under {}",
    "()": "between {} and {}",
}


def with_current_names(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Rename old settings, and log which were renamed.

    Args:
        settings: groups of settings, of a recipe or in the metadata of weights.
        origin: their file.
    """
    renamed: dict[str, Any] = {}
    old: list[str] = []
    for key, value in settings.items():
        if key in REMOVED:
            LOGGER.warning("%s: the setting %s no longer exists and is ignored.", origin, key)
        elif key in RENAMED and isinstance(value, Mapping):
            renamed[key] = {RENAMED[key].get(name, name): inner for name, inner in value.items()}
            old += [f"{key}.{name} is now {key}.{RENAMED[key][name]}" for name in value if name in RENAMED[key]]
        else:
            renamed[RENAMED[""].get(key, key)] = value
            old += [f"{key} is now {RENAMED[''][key]}"] if key in RENAMED[""] else []
    if old:
        LOGGER.warning("%s: settings have been renamed: %s.", origin, "; ".join(old))
    return renamed


def check_range(settings: object, names: str, low: float, high: float = math.inf, bounds: Bounds = "[]") -> None:
    """Check that settings, or all numbers of tuples, are in an interval.

    Raises:
        ValueError: one is not.
    """
    for name in names.split():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        above = all(number > low or (number == low and bounds[0] == "[") for number in numbers)
        below = all(number < high or (number == high and bounds[1] == "]") for number in numbers)
        if not numbers or not above or not below:
            if high == math.inf:
                needed = f"be at least {low:g}" if bounds[0] == "[" else f"be above {low:g}"
            else:
                needed = "lie " + _IN_WORDS[bounds].format(f"{low:g}", f"{high:g}")
            raise ValueError(f"{name} is {value}, but must {needed}")


class EncoderSettings(Protocol):
    """The interface of an encoder's settings dataclass.

    Attributes:
        sizes: settings of usual sizes, such as ``base``.
        min_cells: minimum number of cells of the bottleneck features of a crop.
    """

    sizes: ClassVar[dict[str, dict[str, Any]]]
    min_cells: ClassVar[int]

    @property
    def patch(self) -> Triple:
        """Voxels along X, Y, Z of a patch: the smallest box that can be masked."""

    @property
    def stride(self) -> Triple:
        """Voxels along X, Y, Z of a cell of the bottleneck features."""

    def summary(self) -> str:
        """Such as ``ViT of width 768, depth 12, 12 heads``."""


@dataclass
class MaskSettings:
    """The masks of MAE and SimMIM.

    Attributes:
        kind: how mask units are drawn: uniformly (random), in cuboids (block), or mostly on the body (body).
        ratio: fraction of the mask units that are masked.
        unit: voxels of a mask unit along X, Y, Z; null is the encoder's patch. It is a multiple of the patch, except on
            a U-Net.
        body_fraction: fraction of the masked units that are on the body, as far as some of it stays visible (kind body
            only).
    """

    kind: Literal["random", "block", "body"] = "random"
    ratio: float = 0.75
    unit: Triple | None = None
    body_fraction: float = 0.9

    def __post_init__(self) -> None:
        check_range(self, "ratio", 0, 1, "()")
        check_range(self, "body_fraction", 0, 1)
        if self.unit is not None:
            check_range(self, "unit", 1)


@dataclass
class UNETRSettings:
    """The decoder on a ViT (UNETR) or a Swin (Swin UNETR); the U-Net has its own, with deep supervision only.

    Attributes:
        feature_size: channels at full resolution, doubled at each level below.
        stem: feed the image itself into the full-resolution level, as UNETR does.
        direct: add the logits of one linear layer on the bottleneck features, upsampled to the image, which the papers
            do not have. With it a short fine-tuning uses the pre-trained features from the first step, before the
            random decoder has learned to pass them on (docs/studies).
        deep_supervision: train the coarser levels of a U-Net's decoder to predict the labels too, as nnU-Net does.
    """

    feature_size: int = 16
    stem: bool = True
    direct: bool = False
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        check_range(self, "feature_size", 1)


@dataclass
class SelfTrainingSettings:
    """Learning from unlabelled scans while fine-tuning a segmentor (arXiv 1703.01780, 2001.07685).

    The averaged weights label crops of unlabelled scans, and the network learns these labels from strongly augmented
    versions of the same crops, where they are confident.

    Attributes:
        weight: of the loss on unlabelled crops; 0 turns self-training off.
        batch: unlabelled crops per step.
        threshold: minimum probability of a label that is learned.
        start: fraction of the steps after which it begins, when the labels are good enough; over the next tenth of the
            steps its weight rises linearly.
        shift: maximum change of brightness of the strongly augmented crops, as in the augmentation.
        contrast: maximum relative change of contrast.
        gamma: maximum relative change of the exponent of a gamma correction.
        noise: maximum standard deviation of added noise.
        low_resolution: maximum relative growth of the voxels in a simulated low resolution.
        erase: probability that one to three boxes of a strongly augmented crop are set to 0.
    """

    weight: float = 0.0
    batch: int = 2
    threshold: float = 0.9
    start: float = 0.4
    shift: float = 0.15
    contrast: float = 0.4
    gamma: float = 0.4
    noise: float = 0.1
    low_resolution: float = 0.5
    erase: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "weight shift contrast gamma noise low_resolution", 0)
        check_range(self, "erase", 0, 1)
        check_range(self, "batch", 1)
        check_range(self, "threshold start", 0, 1, "[)")


@dataclass
class Augmentation:
    """Random changes of a crop; every probability is per crop.

    Attributes:
        flip: probability of a flip, per axis.
        flip_x: flip along X (left and right) too; a fine-tuning turns it off if that would confuse left and right.
        rot90: probability of a quarter turn in the X-Y plane (only if the crop is square there).
        affine: probability of a rotation and scaling.
        rotate: maximum rotation about each axis, degrees.
        scale: maximum relative change of size.
        elastic: probability of an elastic deformation.
        displace: maximum displacement of a control point along each axis, mm.
        control: distance between the control points of an elastic deformation, mm.
        shift: maximum change of brightness, as a fraction of the intensity range (CT) or in standard deviations (MR).
        contrast: maximum relative change of contrast.
        noise: maximum standard deviation of added noise.
        gamma: maximum relative change of the exponent of a gamma correction within a channel's range.
        blur: maximum sigma of a Gaussian blur, mm.
        low_resolution: maximum relative increase of the voxel size in a simulated low resolution (1 doubles it).
        intensity: probability of each intensity change, from shift to low_resolution; an amount of 0 turns it off.
    """

    flip: float = 0.1
    flip_x: bool = True
    rot90: float = 0.1
    affine: float = 0.0
    rotate: float = 15.0
    scale: float = 0.15
    elastic: float = 0.0
    displace: float = 10.0
    control: float = 32.0
    shift: float = 0.1
    contrast: float = 0.0
    noise: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    low_resolution: float = 0.0
    intensity: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "flip rot90 affine elastic intensity", 0, 1)
        check_range(self, "rotate displace shift contrast noise gamma blur low_resolution", 0)
        check_range(self, "scale", 0, 1, "[)")
        if self.displace > 0.4 * self.control:
            raise ValueError(
                f"displace {self.displace} would fold the scan onto itself; it must be at most 0.4 of control, "
                f"{self.control}"
            )


@dataclass
class Training:
    """The settings of one training.

    Attributes:
        steps: optimiser steps; a fine-tuning of 0 steps keeps the network that it starts from, and with null the number
            follows from its scans (see `voxmim.training.length.steps_for`).
        batch: crops per step, over all devices; for SimCLR, pairs of crops.
        accumulate: gradient accumulation steps: slower, in less memory.
        crops_per_scan: crops (or pairs) cut from each scan that is opened.
        lr: peak learning rate.
        weight_decay: of AdamW; norms, biases and positional encodings are exempt.
        warmup: fraction of the steps with a linearly rising learning rate; a cosine to zero follows.
        layer_decay: factor on the learning rate for each layer further from the encoder's output (1 is off); it is 1
            in a fine-tuning from scratch.
        clip: maximum norm of the gradient (0 is off).
        ema: EMA decay of the averaged weights, which are then validated and saved (0 is off).
        freeze: fraction of the steps during which the encoder is frozen (fine-tuning only); 1 freezes it throughout.
        validate_every: steps between two validations.
        validation_fraction: fraction of the time that a fine-tuning may spend on validation. Validations beyond it are
            left out, except the first, the last and the one after three quarters of the steps; 1 leaves none out.
        checkpoint_every: steps between two checkpoints (last.ckpt).
        foreground: fraction of crops centred on a labelled voxel (fine-tuning only).
        foreground_weight: weight of labelled voxels in a segmentor's cross-entropy at the first step; it falls linearly
            to 1 over the first 70 % of the steps. Above 1, small structures are learned sooner.
        augmentation: random changes of the crops.
    """

    steps: Steps = 18000
    batch: int = 16
    accumulate: int = 1
    crops_per_scan: int = 4
    lr: float = 3e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    layer_decay: float = 1.0
    clip: float = 1.0
    ema: float = 0.0
    freeze: float = 0.0
    validate_every: int = 500
    validation_fraction: float = 0.1
    checkpoint_every: int = 500
    foreground: float = 0.5
    foreground_weight: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not self.steps_from_data:
            check_range(self, "steps", 0)
        check_range(self, "batch accumulate crops_per_scan validate_every checkpoint_every", 1)
        check_range(self, "lr layer_decay", 0, bounds="()")
        check_range(self, "weight_decay clip", 0)
        check_range(self, "foreground_weight", 1)
        check_range(self, "warmup freeze foreground", 0, 1)
        check_range(self, "validation_fraction", 0)
        check_range(self, "ema", 0, 1, "[)")

    @property
    def steps_from_data(self) -> bool:
        """Whether the number of steps follows from the data, and is not known yet."""
        return self.steps is None

    def foreground_weight_at(self, step: int) -> float:
        """The weight of labelled voxels at a step, counted from 0."""
        left = max(0.0, 1 - step / (0.7 * self.steps))
        return 1 + (self.foreground_weight - 1) * left

"""All settings, in one place: dataclasses whose defaults are the paper's. `recipe.py` reads and checks them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Triple = tuple[int, int, int]
Precision = Literal["auto", "bf16", "16", "32"]
Loss = Literal["l1", "l2", "smooth_l1"]


@dataclass
class ViTSettings:
    """A vision transformer on 3D patches.

    Attributes:
        patch: voxels of a patch along X, Y, Z.
        width: of a token.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of a block's MLP over the token's width.
        positions: fixed sine-cosine code, or a learned table (interpolated when the grid changes).
        rotary: let attention see how far apart two tokens are, too (rotary code on queries and keys).
        drop_path: chance at the last block that a sample skips it (stochastic depth, rising linearly from 0).
        registers: learned tokens without a place that take part in the attention.
        checkpoint: compute the blocks anew in the backward pass: slower, in less memory.
    """

    patch: Triple = (16, 16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    positions: Literal["sincos", "learned"] = "sincos"
    rotary: bool = False
    drop_path: float = 0.0
    registers: int = 0
    checkpoint: bool = False

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the deepest map."""
        return self.patch


@dataclass
class SwinSettings:
    """A Swin transformer: attention within windows, on ever coarser maps.

    Attributes:
        patch: voxels of a patch along X, Y, Z: 2 or 4.
        width: of a patch's embedding, doubled at each merging.
        depths: number of blocks of each stage, for two to four stages.
        heads: attention heads of each stage.
        window: cells of an attention window along each axis.
        mlp_ratio: hidden width of a block's MLP over the width of its stage.
        last_merge: halve the grid after the last stage too, as Swin UNETR does; without it, as the Swin paper has it.
        drop_path: chance at the last block that a sample skips it.
        checkpoint: compute the blocks anew in the backward pass: slower, in less memory.
    """

    patch: Triple = (4, 4, 4)
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0
    last_merge: bool = False
    drop_path: float = 0.0
    checkpoint: bool = False

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the deepest map."""
        return (self.patch[0] * 2 ** (len(self.depths) - 1 + self.last_merge),) * 3


@dataclass
class UNetSettings:
    """A residual U-Net; pre-trained by MAE with its decoder.

    Attributes:
        width: channels at full resolution, doubled at each level below.
        blocks: residual blocks of each level, the finest first; every level halves the resolution.
        most_width: no level has more channels.
    """

    width: int = 32
    blocks: tuple[int, ...] = (1, 3, 4, 4, 4)
    most_width: int = 320

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the deepest map."""
        return (2 ** (len(self.blocks) - 1),) * 3

    @property
    def patch(self) -> Triple:
        """The smallest mask unit: a cell of the deepest map."""
        return self.stride


EncoderSettings = ViTSettings | SwinSettings | UNetSettings

# What `size` stands for in a recipe: the usual ViTs (arXiv 2010.11929, 2012.12877) and Swins (arXiv 2103.14030).
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "vit": {
        "tiny": {"width": 192, "depth": 12, "heads": 3},
        "small": {"width": 384, "depth": 12, "heads": 6},
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    },
    "swin": {
        "tiny": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
        "small": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
        "base": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    },
}


@dataclass
class MaskSettings:
    """What is hidden from MAE and SimMIM.

    Attributes:
        kind: units drawn at random, in blocks that lie together, or so that a share of them lies on the body.
        ratio: share of the mask units that are hidden.
        unit: voxels of a mask unit along X, Y, Z, a multiple of the encoder's patch; null takes the patch.
        body_share: share of the hidden units that lie on the body, as far as some of it stays visible (kind body only).
    """

    kind: Literal["random", "block", "body"] = "random"
    ratio: float = 0.75
    unit: Triple | None = None
    body_share: float = 0.9


@dataclass
class MAESettings:
    """A masked autoencoder. With a U-Net, whose decoder is its own, only the loss counts.

    Attributes:
        decoder_width: of the decoder's tokens.
        decoder_depth: number of the decoder's blocks.
        decoder_heads: the decoder's attention heads.
        target: raw voxels, or voxels normalised per patch.
        loss: mean absolute (l1) or squared (l2) error over the hidden patches, or l2 below 1 and l1 above (smooth_l1).
        cross: decode by cross-attention, which is cheaper: hidden patches look at visible ones only.
        share: of the hidden patches that a step predicts; below 1 it needs cross.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 8
    target: Literal["raw", "normalised"] = "raw"
    loss: Loss = "l1"
    cross: bool = False
    share: float = 1.0


@dataclass
class SimMIMSettings:
    """SimMIM: the encoder sees every place, and one linear layer predicts the hidden voxels.

    Attributes:
        loss: as that of MAE.
    """

    loss: Loss = "l1"


@dataclass
class SimCLRSettings:
    """SimCLR: two views of a scan are to be told from those of all other scans.

    Attributes:
        projection_width: length of a projection.
        hidden_width: of the projection head's hidden layer; null makes it as wide as the encoder.
        temperature: what cosines are divided by.
        overlap: the least share of a view, along each axis, that its partner shows too.
    """

    projection_width: int = 128
    hidden_width: int | None = None
    temperature: float = 0.1
    overlap: float = 0.5


PretextSettings = MAESettings | SimMIMSettings | SimCLRSettings


@dataclass
class UNETRSettings:
    """The segmentor's decoder on a ViT (UNETR) or a Swin (Swin UNETR); the U-Net has its own.

    Attributes:
        feature_size: channels at full resolution; doubled at each level below.
        stem: feed the image itself into the full-resolution level, as UNETR does.
        direct: let the deepest map speak to the labels directly, too, by one linear layer whose logits are enlarged
            and added. The papers have no such path; with it a fine-tuning of few steps uses what the encoder knows
            from the first, where otherwise a fresh decoder has to learn first to pass it on (docs/studies).
    """

    feature_size: int = 16
    stem: bool = True
    direct: bool = False


@dataclass
class Augmentation:
    """Random changes of a crop; every chance is per crop.

    Attributes:
        flip: chance of a flip, per axis.
        flip_x: whether to flip along X (left and right) too; a fine-tuning turns it off where it would mix up sides.
        rot90: chance of a quarter turn in the X-Y plane (only where the crop is square there).
        affine: chance of a rotation and scaling.
        rotate: largest rotation about each axis, degrees.
        scale: largest relative change of size.
        elastic: chance of an elastic deformation.
        displace: largest displacement along each axis that an elastic deformation gives a control point, mm.
        control: distance of an elastic deformation's control points, mm; the shorter, the finer it is.
        shift: largest change of brightness, as a share of the intensity range (CT) or in standard deviations (MR).
        contrast: largest relative change of contrast.
        noise: largest standard deviation of added noise.
        gamma: largest relative change of the exponent that bends intensities within a channel's range.
        blur: largest sigma of a Gaussian, mm.
        low_resolution: largest relative growth of the voxels in a simulated low resolution (1 doubles their size).
        intensity: chance of each intensity change, from shift to low_resolution; an amount of 0 switches it off.
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


@dataclass
class Training:
    """How one training goes.

    Attributes:
        steps: optimiser steps.
        batch: crops per step, over all devices; for SimCLR, pairs of them.
        accumulate: parts that a device computes its crops of a step in, one after the other: slower, in less memory.
        crops_per_scan: crops (or pairs) cut from each scan that is opened.
        lr: peak learning rate.
        weight_decay: of AdamW; norms, biases and position codes are exempt.
        warmup: share of the steps with a linearly rising rate; a cosine to zero follows.
        layer_decay: factor on the rate for each layer of the encoder further from its output (1 is off); a fine-tuning
            from scratch, which has nothing to keep, takes 1.
        clip: largest norm of the gradient (0 is off).
        ema: how much of the averaged weights stays at each step; they are what is validated and saved (0 is off).
        freeze: share of the steps during which the encoder keeps still (fine-tuning only); 1 never releases it.
        validate_every: steps between two validations.
        checkpoint_every: steps between two writings of last.ckpt.
        foreground: share of crops centred on a labelled voxel (fine-tuning only).
        augmentation: random changes of the crops.
    """

    steps: int = 18000
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
        channels: what pre-training shows of a scan's channels: all that it has; a part, drawn for each crop, so that
            the encoder learns to do with missing ones; or one at a time, so that the encoder has one input.
        overlap: of neighbouring windows when a whole scan is labelled, as a share of the window; a training validates
            with windows side by side.
        precision: auto (bf16 where the device is fast at it, else 32), bf16, 16 (GPU only) or 32.
        devices: number of processes or GPUs, of each node.
        nodes: number of machines.
        strategy: what several processes do: each keeps the whole network (ddp), or a share of it (fsdp).
        compile: translate the network into faster code first, which takes some minutes.
        max_damaged: share of a training's scans whose files in the store may be missing or damaged; they are left out
            and named, and above it the training ends. 0 ends it at the first.
        seed: of everything random.
        encoder: the network that is pre-trained, whose settings are those of its name.
        vit: the ViT.
        swin: the Swin transformer.
        unet: the U-Net.
        pretext: the self-supervised task, whose settings are those of its name.
        mask: what MAE and SimMIM hide.
        mae: MAE.
        simmim: SimMIM.
        simclr: SimCLR.
        unetr: the segmentor's decoder.
        carry_decoder: let a fine-tuning of a U-Net start from the decoder of its MAE too.
        pretrain: the pre-training.
        finetune: the fine-tuning.
        scratch_lr: the peak rate of a fine-tuning that starts from scratch; null takes finetune.lr.
        rates: the peak rates of which each arm of a comparison takes the one that does best on validation cases.
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
    strategy: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    max_damaged: float = 0.05
    seed: int = 0
    encoder: Literal["vit", "swin", "unet"] = "vit"
    vit: ViTSettings = field(default_factory=ViTSettings)
    swin: SwinSettings = field(default_factory=SwinSettings)
    unet: UNetSettings = field(default_factory=UNetSettings)
    pretext: Literal["mae", "simmim", "simclr"] = "mae"
    mask: MaskSettings = field(default_factory=MaskSettings)
    mae: MAESettings = field(default_factory=MAESettings)
    simmim: SimMIMSettings = field(default_factory=SimMIMSettings)
    simclr: SimCLRSettings = field(default_factory=SimCLRSettings)
    unetr: UNETRSettings = field(default_factory=UNETRSettings)
    carry_decoder: bool = False
    pretrain: Training = field(default_factory=Training)
    finetune: Training = field(default_factory=Training)
    scratch_lr: float | None = None
    rates: tuple[float, ...] = (1e-3, 3e-4)

    @property
    def encoder_settings(self) -> EncoderSettings:
        """The settings of the encoder that was chosen."""
        chosen: EncoderSettings = getattr(self, self.encoder)
        return chosen

    @property
    def pretext_settings(self) -> PretextSettings:
        """The settings of the pretext that was chosen."""
        chosen: PretextSettings = getattr(self, self.pretext)
        return chosen

    @property
    def mask_unit(self) -> Triple | None:
        """Voxels of a mask unit, or None where the pretext hides nothing."""
        return None if self.pretext == "simclr" else self.mask.unit or self.encoder_settings.patch

"""The base class of pretexts: the interface that trainings, reports and studies use."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor, nn

from voxmim.networks.base import Encoder
from voxmim.settings import MaskSettings, Training
from voxmim.text import counted

_MIN_FRACTION = 0.25  # of the steps; earlier validations give no warning
_MAX_LOSS = 0.97  # of the loss of guessing; with a higher loss nothing has been learned


class Pretext(nn.Module):
    """A self-supervised task: an encoder, a head or decoder for pre-training, and the loss.

    ``__init__`` takes the encoder, the pretext's settings and those of the masks. ``forward`` takes the result of
    `inputs` and returns a named tuple with at least ``loss``.

    Attributes:
        Settings: dataclass of its settings, a group of a recipe.
        title: its name in reports.
        masked: it uses the recipe's `mask`.
        whole_patches: a mask unit must consist of whole patches of the encoder.
        reconstructs: it predicts voxels, and has a method `reconstruct`.
        views: overlapping crops per sample, next to each other in a batch.
        overlap: minimum overlap of two views along each axis, as a fraction of the crop.
        samples: what a batch consists of, in words.
        betas: of AdamW.
        columns: columns of metrics.csv with a validation's figures: ``val_loss``, ``val_guess``, the loss of a network
            that has learned nothing, and others.
        guess: how such a network guesses, in words.
        remedies: what to try if nothing is learned, in words.
        decoder_prefix: prefix of the tensors of a decoder that a fine-tuning can load, or None.
        encoder: the network that is pre-trained.
    """

    Settings: ClassVar[Any]
    title: ClassVar[str]
    masked: ClassVar[bool] = False
    whole_patches: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = False
    views: ClassVar[int] = 1
    samples: ClassVar[str] = "crops"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)  # arXiv 2111.06377
    columns: ClassVar[tuple[str, ...]] = ("val_loss", "val_guess")
    guess: ClassVar[str]
    remedies: ClassVar[str] = "another pretrain.lr or more pretrain.steps"
    decoder_prefix: ClassVar[str | None] = None

    encoder: Encoder
    overlap: float = 1.0

    @classmethod
    def for_encoder(cls, encoder: type[Encoder]) -> "type[Pretext] | None":
        """The class of this pretext for an encoder, or None if there is none."""
        return cls

    @classmethod
    def check(cls, settings: Any, training: Training) -> None:
        """Check the settings and those of the pre-training; raises ValueError."""

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        """The arguments of `forward` for a batch of crops.

        Args:
            image: (B * views, C, X, Y, Z).
            seeds: (B * views,) int64 on the CPU, the seed of everything random about each crop.
            present: (B * views, C) bool, the channels of each crop that exist; None means all.
        """
        raise NotImplementedError

    def figures(self, output: Any) -> dict[str, Tensor]:
        """The figures of a validation, named as in `columns`, from the result of `forward`."""
        raise NotImplementedError

    @classmethod
    def warning(cls, settings: Any, row: Mapping[str, float], steps: int) -> str:
        """A warning and what to try, if a validation's row of metrics shows that a pre-training fails, or ""."""
        if row["step"] < _MIN_FRACTION * steps or "val_loss" not in row:
            return ""
        when = f"after {int(row['step'])} of {counted(steps, 'step')}"
        if collapse := cls.collapse(settings, row):
            return f"The representation has collapsed: {when} {collapse}"
        if row["val_loss"] > _MAX_LOSS * row.get("val_guess", float("inf")):
            return (
                f"The network has learned hardly anything: {when} its loss on validation {cls.samples} is "
                f"{row['val_loss']:.4f}, and {cls.guess} has {row['val_guess']:.4f}. Try {cls.remedies}."
            )
        return ""

    @classmethod
    def collapse(cls, settings: Any, row: Mapping[str, float]) -> str:
        """How a validation shows that all scans have the same representation, and what to try; "" if they do not."""
        return ""

    @classmethod
    def summary(cls, settings: Any, mask: MaskSettings) -> str:
        """What the encoder learned, to follow "An encoder that"."""
        raise NotImplementedError

    @classmethod
    def loss_name(cls, settings: Any) -> tuple[str, str]:
        """The title and the axis label of the plot of the loss."""
        raise NotImplementedError

    @classmethod
    def progress(cls, settings: Any, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """A sentence or two on the first and the last validation."""
        guess = f"; {cls.guess} has {last['val_guess']:.3f}" if "val_guess" in last else ""
        if first["step"] == last["step"]:
            return f"On validation {cls.samples}, the loss is {last['val_loss']:.3f}{guess}."
        change = "fell" if last["val_loss"] <= first["val_loss"] else "rose"
        losses = f"from {first['val_loss']:.3f} to {last['val_loss']:.3f}"
        return f"On validation {cls.samples}, the loss {change} {losses}{guess}."

    @classmethod
    def relative_cost(cls, encoder: type[Encoder]) -> float:
        """The time of a step relative to one that encodes as many complete crops."""
        return float(cls.views)

    @classmethod
    def comparable(cls, training: Training) -> dict[str, Any]:
        """The settings that differ from another pretext's pre-training in a comparison at equal time."""
        return {}


def describe_pretext(name: str, settings: Any, mask: MaskSettings) -> dict[str, Any]:
    """A weights file's metadata on the pretext: its name, its settings under that name, and those of the masks."""
    return {"pretext": name, name: asdict(settings), "mask": asdict(mask)}

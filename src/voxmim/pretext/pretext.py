"""What every pretext offers: all that trainings, reports and studies need to know of one."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor, nn

from voxmim.networks.base import Encoder
from voxmim.settings import MaskSettings, Training

GRACE = 0.25  # fraction of the steps before which nothing can be said
NO_BETTER = 0.97  # of the loss of guessing; above it nothing has been learned


class Pretext(nn.Module):
    """A self-supervised task: an encoder, what is put on top of it for pre-training, and the loss.

    ``__init__`` takes the encoder, its own settings and those of the masks. ``forward`` takes what `inputs` returns and
    gives a named tuple with at least ``loss``. A row of metrics has a validation's figures by the names in `columns`.

    Attributes:
        Settings: dataclass of its settings, a group of that name in a recipe.
        title: its name in reports.
        masked: it masks what the recipe's `mask` says.
        whole_patches: a mask unit must consist of whole patches of the encoder.
        reconstructs: it predicts voxels, and has a method `reconstruct`.
        views: overlapping crops that a sample takes, next to each other in a batch.
        overlap: minimum overlap of two views along each axis, as a fraction of the crop.
        samples: what a batch consists of.
        betas: of AdamW.
        columns: figures of a validation, as in metrics.csv; always ``val_loss``, and ``val_guess``, the loss of a
            network that has learned nothing.
        guess: how such a network guesses.
        remedies: what to try when nothing is learned.
        decoder_prefix: of the tensors of a decoder that a fine-tuning can start from too.
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
        """The class that pre-trains such an encoder by this pretext, or None if that is not possible."""
        return cls

    @classmethod
    def check(cls, settings: Any, training: Training) -> None:
        """Check the settings against the encoder and the pre-training; a ValueError says what is wrong."""

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        """What `forward` takes for a batch of crops; whatever is random follows from each crop's seed.

        Args:
            image: (B * views, C, X, Y, Z).
            seeds: (B * views,) int64 on the CPU.
            present: (B * views, C) bool, the channels that each crop shows; None if it shows all.
        """
        raise NotImplementedError

    def figures(self, output: Any) -> dict[str, Tensor]:
        """The figures of a validation, named as in `columns`, from what `forward` gave."""
        raise NotImplementedError

    @classmethod
    def complaint(cls, settings: Any, row: Mapping[str, float], steps: int) -> str:
        """What a validation's row of metrics shows to be wrong with a pre-training of so many steps, and what to try.

        It is "" where all is well.
        """
        if row["step"] < GRACE * steps or "val_loss" not in row:
            return ""
        when = f"after {int(row['step'])} of {steps} steps"
        if collapse := cls.collapse(settings, row):
            return f"The representation has collapsed: {when} {collapse}"
        if row["val_loss"] > NO_BETTER * row.get("val_guess", float("inf")):
            return (
                f"The network has learned hardly anything: {when} its loss on validation {cls.samples} is "
                f"{row['val_loss']:.4f}, and {cls.guess} has {row['val_guess']:.4f}. Try {cls.remedies}."
            )
        return ""

    @classmethod
    def collapse(cls, settings: Any, row: Mapping[str, float]) -> str:
        """How a validation shows that all scans are encoded alike, and what to try; "" where they are not."""
        return ""

    @classmethod
    def summary(cls, settings: Any, mask: MaskSettings) -> str:
        """What the encoder learned, as half a sentence that follows "An encoder that"."""
        raise NotImplementedError

    @classmethod
    def loss_name(cls, settings: Any) -> tuple[str, str]:
        """Title and axis of the plot of the loss."""
        raise NotImplementedError

    @classmethod
    def progress(cls, settings: Any, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        """What the first and the last validation found, in a sentence or two."""
        guess = f"; {cls.guess} has {last['val_guess']:.3f}" if "val_guess" in last else ""
        if first["step"] == last["step"]:
            return f"On validation {cls.samples}, the loss is {last['val_loss']:.3f}{guess}."
        change = "fell" if last["val_loss"] <= first["val_loss"] else "rose"
        losses = f"from {first['val_loss']:.3f} to {last['val_loss']:.3f}"
        return f"On validation {cls.samples}, the loss {change} {losses}{guess}."

    @classmethod
    def relative_cost(cls, encoder: type[Encoder]) -> float:
        """Time of a step relative to one that encodes as many complete crops."""
        return float(cls.views)

    @classmethod
    def comparable(cls, training: Training) -> dict[str, Any]:
        """Settings that this pretext needs instead of another one's pre-training, to compare them at equal time."""
        return {}


def describe_pretext(name: str, settings: Any, mask: MaskSettings) -> dict[str, Any]:
    """The metadata of a weights file on the pretext: its name, under that name its settings, and those of the masks."""
    return {"pretext": name, name: asdict(settings), "mask": asdict(mask)}

"""The base class of pretexts that predict masked voxels: MAE, SimMIM and the U-Net's MAE."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from voxmim.networks.patches import grid_of, unpatchify
from voxmim.pretext.masking import draw_masks
from voxmim.pretext.pretext import Pretext
from voxmim.settings import MaskSettings, Triple

Loss = Literal["l1", "l2", "smooth_l1"]

ERRORS = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}
_IN_WORDS = {"l1": "mean absolute error", "l2": "mean squared error", "smooth_l1": "mean smooth l1 error"}


class MaskedOutput(NamedTuple):
    """The result of a forward pass."""

    loss: Tensor  # scalar, the mean error over the hidden patches that were predicted
    prediction: Tensor  # (B, N, P) float32 in the target's units; undefined for patches that were not predicted
    target: Tensor  # (B, N, P) float32
    mask: Tensor  # (B, N) bool, True means hidden
    present: Tensor | None = None  # (B, C) bool, the channels in the loss; None means all


class MaskedPretext(Pretext):
    """Predicts the voxels of hidden patches; ``settings.loss`` names the error."""

    masked: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = True
    guess: ClassVar[str] = "one grey value per crop"
    remedies: ClassVar[str] = "another pretrain.lr, more pretrain.steps, smaller patches or a lower mask.ratio"

    def __init__(self, settings: Any, mask: MaskSettings) -> None:
        super().__init__()
        self.settings, self.mask = settings, mask

    @property
    def patch(self) -> Triple:
        """Voxels along X, Y, Z of a patch of the mask."""
        return self.encoder.patch

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        mask = draw_masks(self.mask, self.patch, image, seeds)
        return image, mask.to(image.device), on_device(present, image)

    def figures(self, output: MaskedOutput) -> dict[str, Tensor]:
        """The loss, and the minimum loss of predicting one value for all hidden voxels of a crop."""
        guesses = []
        for row, hidden in enumerate(output.mask):
            voxels = output.target[row, hidden]
            if output.present is not None:
                voxels = voxels[:, voxels_of(output.present[row : row + 1], voxels.shape[-1])[0, 0]]
            best = voxels.mean() if self.settings.loss == "l2" else voxels.median()
            guesses.append(ERRORS[self.settings.loss](best.expand_as(voxels), voxels))
        return {"val_loss": output.loss, "val_guess": torch.stack(guesses).mean()}

    def reconstruct(self, volume: Tensor, output: MaskedOutput) -> Tensor:
        """(B, C, X, Y, Z) in the volume's units: predictions for hidden patches, the volume elsewhere."""
        pasted = torch.where(output.mask.unsqueeze(-1), output.prediction, output.target)
        return unpatchify(pasted, grid_of(tuple(volume.shape), self.patch), self.patch)

    @classmethod
    def summary(cls, settings: Any, mask: MaskSettings) -> str:
        """Such as ``learned to predict masked voxels (MAE): 75% of each crop was masked``."""
        how = {"random": "", "block": ", in blocks", "body": ", mostly on the body"}[mask.kind]
        return f"learned to predict masked voxels ({cls.title}): {mask.ratio:.0%} of each crop was masked{how}"

    @classmethod
    def loss_name(cls, settings: Any) -> tuple[str, str]:
        return "Error on hidden patches", _IN_WORDS[settings.loss]


def masked_error(
    prediction: Tensor, target: Tensor, loss: Loss, mask: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """The mean error of (B, N, P) over the hidden patches `mask` (B, N) and the channels `present` (B, C); None: all.

    No shape depends on the data, so that the device is not synchronised with the host.
    """
    if mask is None and present is None:
        return ERRORS[loss](prediction, target)
    weight = torch.ones_like(target)
    if mask is not None:
        weight = weight * mask.unsqueeze(-1)
    if present is not None:
        weight = weight * voxels_of(present, target.shape[-1])
    return (ERRORS[loss](prediction, target, reduction="none") * weight).sum() / weight.sum()


def voxels_of(present: Tensor, length: int) -> Tensor:
    """Channels (B, C) bool to a patch's voxels (B, 1, length) bool, in `patchify`'s order."""
    return present.repeat_interleave(length // present.shape[1], dim=1).unsqueeze(1)


def on_device(present: Tensor | None, image: Tensor) -> Tensor | None:
    """`present` on the image's device; None if all channels are present."""
    return None if present is None or present.all() else present.to(image.device)

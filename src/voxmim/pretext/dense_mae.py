"""The masked autoencoder on a convolutional U-Net, as in arXiv 2410.23132 but without sparse convolutions.

Convolutions cannot leave hidden patches out. So hidden mask units are set to zero, the complete U-Net with decoder and
skip connections predicts every voxel, and the loss is on hidden voxels only. Zero is air in CT, the lower end of the
window, and the mean in MR. A mask unit may be smaller than a cell of the bottleneck.
"""

from typing import Any, ClassVar

from torch import Tensor

from voxmim.networks.patches import grid_of, mask_to_voxels, patchify
from voxmim.networks.unet import ConvEncoder, UNet
from voxmim.pretext.masked import MaskedOutput, MaskedPretext, masked_error
from voxmim.settings import MaskSettings, Training, Triple


class DenseMAE(MaskedPretext):
    """A U-Net and the loss, which is the only one of MAE's settings that it uses."""

    title: ClassVar[str] = "MAE"
    decoder_prefix: ClassVar[str] = "network.decoder."
    whole_patches: ClassVar[bool] = False

    def __init__(self, encoder: ConvEncoder, settings: Any, mask: MaskSettings) -> None:
        super().__init__(settings, mask)
        self.network = UNet(encoder, encoder.channels)

    @property
    def encoder(self) -> ConvEncoder:  # type: ignore[override]
        return self.network.encoder

    @property
    def patch(self) -> Triple:
        return self.mask.unit or self.encoder.patch

    @classmethod
    def check(cls, settings: Any, training: Training) -> None:
        if settings.target == "normalised":
            raise ValueError("mae.target is normalised, but the unet's MAE predicts raw voxels")

    def forward(self, volume: Tensor, mask: Tensor, present: Tensor | None = None) -> MaskedOutput:
        """Hide the patches of a mask (B, N) in a volume (B, C, X, Y, Z), predict, and compute the loss.

        The loss is over the channels `present`, (B, C) bool; None means all.
        """
        patch = self.patch
        visible = volume.masked_fill(mask_to_voxels(mask, grid_of(tuple(volume.shape), patch), patch), 0)
        prediction, target = patchify(self.network(visible).float(), patch), patchify(volume.float(), patch)
        loss = masked_error(prediction, target, self.settings.loss, mask, present)
        return MaskedOutput(loss, prediction, target, mask, present)

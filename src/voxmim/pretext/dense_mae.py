"""The masked autoencoder on a convolutional U-Net, as in arXiv 2410.23132 but without sparse convolutions.

Convolutions cannot leave hidden patches out. So hidden mask units are set to zero, the complete U-Net, decoder and
skip connections included, predicts every voxel, and the loss is on hidden voxels only. Zero is the lower end of the
window in CT, so that a hidden unit looks like air there, and the mean in MR.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from voxmim.networks.patches import grid_of, mask_to_voxels, patchify
from voxmim.networks.unet import ConvEncoder, UNet
from voxmim.pretext.masked import MaskedOutput, MaskedPretext, masked_error
from voxmim.settings import MaskSettings, Training


class DenseMAE(MaskedPretext):
    """The network and the loss.

    Args:
        encoder: of a U-Net, whose decoder is added.
        settings: of an MAE, of which the loss counts.
        mask: what is hidden.
    """

    title: ClassVar[str] = "MAE"
    decoder_prefix: ClassVar[str] = "network.decoder."

    def __init__(self, encoder: ConvEncoder, settings: Any, mask: MaskSettings) -> None:
        super().__init__(settings, mask)
        self.network = UNet(encoder, encoder.channels)

    @property
    def encoder(self) -> ConvEncoder:  # type: ignore[override]
        """The network that is pre-trained; its tensors are those of ``network.encoder``."""
        return self.network.encoder

    @classmethod
    def check(cls, settings: Any, training: Training) -> None:
        """Refuse a normalised target."""
        if settings.target == "normalised":
            raise ValueError("mae.target is normalised, but the unet's MAE predicts raw voxels")

    def forward(self, volume: Tensor, mask: Tensor, present: Tensor | None = None) -> MaskedOutput:
        """Hide, predict and compare; N and P in the output count patches of the encoder and their voxels.

        Args:
            volume: (B, C, X, Y, Z), a multiple of the encoder's patch along each axis.
            mask: (B, N) bool, True means hidden.
            present: (B, C) bool, the channels of each sample that count; None where all do.

        Raises:
            ValueError: the volume is not a multiple of the patch, or does not fit the network.
        """
        patch = self.encoder.patch
        visible = volume.masked_fill(mask_to_voxels(mask, grid_of(tuple(volume.shape), patch), patch), 0)
        prediction, target = patchify(self.network(visible).float(), patch), patchify(volume.float(), patch)
        loss = masked_error(prediction, target, self.settings.loss, mask, present)
        return MaskedOutput(loss, prediction, target, mask, present)

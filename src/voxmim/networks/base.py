"""The base classes of encoders and segmentors."""

from typing import ClassVar

from torch import Tensor, nn

from voxmim.settings import EncoderSettings, Triple


class Encoder(nn.Module):
    """An encoder: ``__init__`` takes its settings, the channels of the volumes, and the voxels of a crop along X, Y, Z.

    Only learned positions depend on the crop; crops of other sizes can be encoded too. ``forward`` returns the tokens
    of a ViT, and the result of `encode` otherwise.

    Attributes:
        encodes_visible: ``forward`` also takes the index (B, V) of the visible patches, and encodes only those.
        takes_mask_token: ``encode`` takes hidden patches and a mask token.
        input_weights: names of the weights that are applied to the volume itself; they depend on its channels.
        channels: number of channels of a volume.
        patch: voxels along X, Y, Z of a patch, the smallest box that can be masked.
        embed_width: length of a patch's embedding, and so of the mask token (with `takes_mask_token`).
        width: channels of the bottleneck features.
        stride: voxels of a cell of the bottleneck features along X, Y, Z.
    """

    encodes_visible: ClassVar[bool] = False
    takes_mask_token: ClassVar[bool] = False

    input_weights: tuple[str, ...] = ()
    channels: int
    patch: Triple
    embed_width: int
    width: int
    stride: Triple

    @property
    def layers(self) -> list[tuple[str, ...]]:
        """The names of the modules of each layer, from input to output, for layer-wise learning rate decay."""
        raise NotImplementedError

    def forward(self, volume: Tensor) -> Tensor:
        return self.encode(volume)

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """The bottleneck features, optionally with some patches hidden (arXiv 2111.09886).

        Args:
            volume: (B, C, X, Y, Z).
            hidden: (B, N) bool per patch in `patchify`'s order, True means hidden; None hides nothing.
            token: (embed_width,) mask token that replaces the embedding of hidden patches; needed with `hidden`.

        Returns:
            (B, width, *grid).

        Raises:
            ValueError: the volume has other channels or axes, or is not a multiple of the patch.
        """
        raise NotImplementedError

    def check(self, volume: Tensor) -> None:
        """Raise ValueError unless the volume is (B, C, X, Y, Z) with the encoder's channels."""
        if volume.dim() != 5 or volume.shape[1] != self.channels:
            raise ValueError(
                f"a volume of shape {tuple(volume.shape)} was given, but (B, {self.channels}, X, Y, Z) is needed; "
                "load_encoder(PATH, channels=NAMES) adapts weights to other channels"
            )


class Segmentor(nn.Module):
    """Encoder and decoder: ``__init__`` takes the encoder, the number of labels with background, and the settings.

    ``forward`` turns a volume (B, C, X, Y, Z) into logits (B, classes, X, Y, Z).

    Attributes:
        carries_decoder: a pre-training can train ``decoder`` too, and a fine-tuning start from it.
    """

    carries_decoder: ClassVar[bool] = False

    encoder: Encoder

    @classmethod
    def check(cls, settings: EncoderSettings) -> None:
        """Check that the segmentor fits an encoder before it is pre-trained; raises ValueError if not."""

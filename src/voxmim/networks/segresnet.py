"""MONAI's SegResNet encoder (arXiv 1810.11654), as in CT-FM (arXiv 2501.09001); the decoder is a U-Net's."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from voxmim.networks.unet import ConvEncoder, ConvSettings
from voxmim.settings import Triple, check_range


@dataclass
class SegResNetSettings(ConvSettings):
    """MONAI's SegResNet encoder.

    Attributes:
        width: channels at full resolution, doubled at each stage below.
        blocks: residual blocks of each stage, the finest first; every stage halves the resolution.
        norm: normalisation of the features, over each volume or over a batch.
    """

    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 4, 4)
    norm: Literal["instance", "batch"] = "instance"

    def __post_init__(self) -> None:
        check_range(self, "width blocks", 1)

    def summary(self) -> str:
        """Such as ``SegResNet of width 32, blocks 1-2-2-4-4``."""
        return f"SegResNet of width {self.width}, blocks {'-'.join(map(str, self.blocks))}"


class SegResNet(ConvEncoder):
    """MONAI's SegResNet encoder."""

    input_weights = ("net.conv_init.weight",)

    def __init__(self, settings: SegResNetSettings, channels: int = 1, crop: Triple | None = None) -> None:
        from monai.networks.nets.segresnet_ds import SegResEncoder  # MONAI takes seconds to import

        super().__init__(settings, [settings.width * 2**stage for stage in range(len(settings.blocks))], channels)
        norm = (settings.norm, {"affine": True})
        self.net = SegResEncoder(
            init_filters=settings.width, in_channels=channels, norm=norm, blocks_down=settings.blocks
        )

    @property
    def layers(self) -> list[tuple[str, ...]]:
        first, *others = (f"net.layers.{stage}" for stage in range(len(self.widths)))
        return [("net.conv_init", first), *((stage,) for stage in others)]

    def _stages(self, volume: Tensor) -> list[Tensor]:
        return self.net(volume)

"""MONAI's SegResNet encoder (arXiv 1810.11654), that of CT-FM (arXiv 2501.09001), with a U-Net's decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from voxmim.networks.unet import ConvEncoder
from voxmim.settings import Triple, check_range


@dataclass
class SegResNetSettings:
    """MONAI's SegResNet encoder.

    Attributes:
        width: channels at full resolution, doubled at each stage below.
        blocks: residual blocks of each stage, the finest first; every stage halves the resolution.
        norm: of the features, over each volume or over a batch.
    """

    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 4, 4)
    norm: Literal["instance", "batch"] = "instance"

    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    min_cells: ClassVar[int] = 2  # instance normalisation removes the mean, which is all of a single cell

    def __post_init__(self) -> None:
        check_range(self, "width blocks", 1)

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the bottleneck features."""
        return (2 ** (len(self.blocks) - 1),) * 3

    @property
    def patch(self) -> Triple:
        """The smallest mask unit, a cell of the bottleneck."""
        return self.stride

    def summary(self) -> str:
        """Such as ``SegResNet of width 32, blocks 1-2-2-4-4``."""
        return f"SegResNet of width {self.width}, blocks {'-'.join(map(str, self.blocks))}"


class SegResNet(ConvEncoder):
    """The encoder.

    Args:
        settings: of the network.
        channels: of the volumes.
        crop: not used; convolutions have no positions that depend on it.
    """

    input_weights = ("net.conv_init.weight",)

    def __init__(self, settings: SegResNetSettings, channels: int = 1, crop: Triple | None = None) -> None:
        from monai.networks.nets.segresnet_ds import SegResEncoder  # MONAI takes seconds to import

        stages = len(settings.blocks)
        widths = [settings.width * 2**stage for stage in range(stages)]
        super().__init__(widths, [(1, 1, 1), *[(2, 2, 2)] * (stages - 1)], channels)
        norm = (settings.norm, {"affine": True})
        self.net = SegResEncoder(
            init_filters=settings.width, in_channels=channels, norm=norm, blocks_down=settings.blocks
        )

    @property
    def layers(self) -> list[tuple[str, ...]]:
        """The names of the modules of each layer, from input to output: each stage, the first with the stem."""
        return [
            (*(("net.conv_init",) if stage == 0 else ()), f"net.layers.{stage}") for stage in range(len(self.widths))
        ]

    def _stages(self, volume: Tensor) -> list[Tensor]:
        return self.net(volume)

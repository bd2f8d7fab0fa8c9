"""nnU-Net's encoders: residual (arXiv 2404.09556) or plain (arXiv 1809.10486) convolutions with instance norm.

Tensors have the names of dynamic-network-architectures, nnU-Net's package of networks, without its nested lists.
Residual blocks are those of ResNet-D (arXiv 1812.01187): if a block halves the grid, its shortcut is average-pooled.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from voxmim.networks.blocks import InstanceNorm, Pool, leaky_relu, named
from voxmim.networks.unet import ConvEncoder, ConvSettings
from voxmim.settings import Triple, check_range


@dataclass
class ResEncSettings(ConvSettings):
    """nnU-Net's encoder; the defaults are its preset ResEnc-L.

    Attributes:
        widths: channels of each stage, the finest first.
        blocks: residual blocks, or plain convolutions, of each stage; the first may have none behind its stem.
        strides: by which each stage divides the grid along X, Y, Z; null halves it in every stage but the first.
        kernels: of the convolutions of each stage along X, Y, Z; null takes 3 everywhere.
        residual: residual blocks behind a stem, or plain convolutions without one.
        pad_value: intensity around the volume for the first convolution, which sees its border: 0 is air in the window
            of CT, the mean of the foreground in MR. Imported weights may have another one.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)
    strides: tuple[Triple, ...] | None = None
    kernels: tuple[Triple, ...] | None = None
    residual: bool = True
    pad_value: float = 0.0

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "base": {"widths": (32, 64, 128, 256, 320), "blocks": (1, 3, 4, 6, 6)},
        "large": {"widths": (32, 64, 128, 256, 320, 320), "blocks": (1, 3, 4, 6, 6, 6)},
    }

    def __post_init__(self) -> None:
        check_range(self, "widths", 1)
        if min(self.blocks) < 0 or 0 in self.blocks[0 if not self.residual else 1 :]:
            raise ValueError(f"blocks {self.blocks} must be at least 1, but for the first stage behind a stem")
        for name in ("strides", "kernels"):  # lists if they come from YAML or JSON
            given = getattr(self, name)
            setattr(self, name, given if given is None else tuple(tuple(axes) for axes in given))
        counts = {len(given) for given in (self.widths, self.blocks, self.strides, self.kernels) if given is not None}
        if len(counts) > 1:
            raise ValueError("widths, blocks, strides and kernels must have one entry for each stage")
        if max(self.stage_strides[0]) > 1:
            raise ValueError(f"strides {self.stage_strides} must begin with a stage of full resolution, (1, 1, 1)")
        if any(size % 2 == 0 for kernel in self.stage_kernels for size in kernel):
            raise ValueError(f"kernels {self.kernels} must be odd")

    @property
    def stage_strides(self) -> list[Triple]:
        return list(self.strides) if self.strides else super().stage_strides

    @property
    def stage_kernels(self) -> list[Triple]:
        """The kernel of each stage."""
        return list(self.kernels or ((3, 3, 3),) * len(self.widths))

    def summary(self) -> str:
        """Such as ``residual encoder of nnU-Net, widths 32-64, blocks 1-3``."""
        kind = "residual" if self.residual else "plain"
        widths, blocks = ("-".join(map(str, numbers)) for numbers in (self.widths, self.blocks))
        return f"{kind} encoder of nnU-Net, widths {widths}, blocks {blocks}"


class ResEnc(ConvEncoder):
    """nnU-Net's encoder."""

    def __init__(self, settings: ResEncSettings, channels: int = 1, crop: Triple | None = None) -> None:
        super().__init__(settings, list(settings.widths), channels)
        self.settings, self.stages = settings, nn.ModuleList()
        block: type[nn.Module] = _ResidualBlock if settings.residual else _ConvNorm
        width = settings.widths[0]
        self.stem = _ConvNorm(channels, width, settings.stage_kernels[0]) if settings.residual else nn.Identity()
        incoming = width if settings.residual else channels
        stages = zip(settings.widths, settings.blocks, settings.stage_strides, settings.stage_kernels, strict=True)
        for width, count, stride, kernel in stages:
            blocks = [block(incoming, width, kernel, stride)] if count else []
            blocks += [block(width, width, kernel) for _ in range(count - 1)]
            self.stages.append(named(blocks=nn.Sequential(*blocks)))
            incoming = width
        first: Any = self.stem if settings.residual else self.get_submodule("stages.0.blocks.0")
        first.pad_value = settings.pad_value
        self.input_weights = ("stem.conv.weight",) if settings.residual else ("stages.0.blocks.0.conv.weight",)
        self.apply(_initialise)

    @property
    def layers(self) -> list[tuple[str, ...]]:
        stem = [("stem",)] if self.settings.residual else []
        counts = enumerate(self.settings.blocks)
        return [*stem, *((f"stages.{stage}.blocks.{block}",) for stage, count in counts for block in range(count))]

    def _stages(self, volume: Tensor) -> list[Tensor]:
        return super()._stages(self.stem(volume))


class _ConvNorm(nn.Module):
    """A convolution, instance norm, and a leaky ReLU unless `linear`."""

    def __init__(
        self, incoming: int, outgoing: int, kernel: Triple, stride: Triple = (1, 1, 1), linear: bool = False
    ) -> None:
        super().__init__()
        x, y, z = (size // 2 for size in kernel)
        self.conv = nn.Conv3d(incoming, outgoing, kernel, stride, padding=(x, y, z), bias=max(kernel) > 1)
        self.norm = InstanceNorm(outgoing, affine=True)
        self.linear, self.pad_value = linear, 0.0

    def forward(self, volume: Tensor) -> Tensor:
        if self.pad_value == 0.0:
            features = self.conv(volume)
        else:
            x, y, z = (int(size) for size in self.conv.padding)
            padded = functional.pad(volume, (z, z, y, y, x, x), value=self.pad_value)
            features = functional.conv3d(padded, self.conv.weight, self.conv.bias, self.conv.stride)
        features = self.norm(features)
        return features if self.linear else leaky_relu(features)


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, pooled if the grid changes and projected if the channels change."""

    def __init__(self, incoming: int, outgoing: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(incoming, outgoing, kernel, stride)
        self.conv2 = _ConvNorm(outgoing, outgoing, kernel, linear=True)
        shortcut: list[nn.Module] = [Pool(stride)] if max(stride) > 1 else []
        shortcut += [_ConvNorm(incoming, outgoing, (1, 1, 1), linear=True)] if incoming != outgoing else []
        self.skip = nn.Sequential(*shortcut)

    def forward(self, features: Tensor) -> Tensor:
        return leaky_relu(self.conv2(self.conv1(features)) + self.skip(features))


def _initialise(module: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852); a residual block starts as its shortcut."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, _ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)

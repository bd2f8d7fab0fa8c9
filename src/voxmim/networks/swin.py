"""The Swin transformer in 3D (arXiv 2103.14030, 2201.01266): attention within shifted windows, on a pyramid of maps.

This wraps MONAI's network and adds SimMIM's masking (arXiv 2111.09886): a mask token replaces the embedding of a hidden
patch, so that the windows stay complete.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from voxmim.networks.base import Encoder
from voxmim.networks.patches import grid_of
from voxmim.settings import Triple, check_range


@dataclass
class SwinSettings:
    """A Swin transformer.

    Attributes:
        patch: voxels of a patch along X, Y, Z: 2 or 4, the same along each axis.
        width: of a patch's embedding, doubled at each merging.
        depths: number of blocks of each stage, for two to four stages.
        heads: attention heads of each stage.
        window: cells of an attention window along each axis; every other block shifts the windows by half of it. It
            should divide the grids of the stages: a grid is padded to a multiple of the window, and on a grid smaller
            than the window MONAI's relative position bias is wrong.
        mlp_ratio: hidden width of a block's MLP over the width of its stage.
        last_merge: halve the grid after the last stage too, as Swin UNETR does; the Swin paper does not.
        conv_blocks: a residual block of convolutions in front of each stage (SwinUNETR-V2, MICCAI 2023).
        drop_path: probability that a sample skips the last block, rising linearly from 0 at the first.
        grad_checkpointing: recompute the blocks in the backward pass: slower, in less memory.
    """

    patch: Triple = (4, 4, 4)
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0
    last_merge: bool = False
    conv_blocks: bool = False
    drop_path: float = 0.0
    grad_checkpointing: bool = False

    sizes: ClassVar[dict[str, dict[str, Any]]] = {  # arXiv 2103.14030
        "tiny": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
        "small": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
        "base": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    }
    min_cells: ClassVar[int] = 2  # instance normalisation makes a single cell zero

    def __post_init__(self) -> None:
        check_range(self, "width depths heads window", 1)
        check_range(self, "drop_path", 0, 1, "[)")
        if self.patch not in ((2, 2, 2), (4, 4, 4)):
            raise ValueError(f"patch {self.patch} must be 2 or 4, the same along each axis")
        if len(self.depths) != len(self.heads) or not 2 <= len(self.depths) <= 4:
            raise ValueError(
                f"depths {self.depths} and heads {self.heads} must have one number for each of 2 to 4 stages"
            )
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise ValueError(
                    f"width {self.width * 2**stage} of a stage must be a multiple of its number of heads, {heads}"
                )

    @property
    def stride(self) -> Triple:
        """Voxels of a cell of the bottleneck features."""
        return (self.patch[0] * 2 ** (len(self.depths) - 1 + self.last_merge),) * 3

    def summary(self) -> str:
        """Such as ``Swin of width 96, depths 2-2-6-2, window 7``."""
        return f"Swin of width {self.width}, depths {'-'.join(map(str, self.depths))}, window {self.window}"


class Swin(Encoder):
    """MONAI's Swin transformer with masking.

    A volume must be a multiple of the patch. Patch merging pads an odd grid with zeros at the far end, so that the next
    grid is half of it rounded up.

    Attributes:
        widths: channels of the maps, finest first.
    """

    takes_mask_token = True
    input_weights = ("swin.patch_embed.proj.weight",)

    def __init__(self, settings: SwinSettings, channels: int = 1, crop: Triple | None = None) -> None:
        from monai.networks.nets.swin_unetr import SwinTransformer  # MONAI takes seconds to import

        super().__init__()
        self.channels, self.patch, self.stride = channels, settings.patch, settings.stride
        self.stages, self.conv_blocks = len(settings.depths), settings.conv_blocks
        self.widths = [settings.width * 2**level for level in range(self.stages + settings.last_merge)]
        self.embed_width, self.width = settings.width, self.widths[-1]
        # Tensors have the names of MONAI's SwinUNETR, with `swin.` for `swinViT.`.
        self.swin = SwinTransformer(
            in_chans=channels,
            embed_dim=settings.width,
            window_size=(settings.window,) * 3,
            patch_size=settings.patch,
            depths=settings.depths,
            num_heads=settings.heads,
            mlp_ratio=settings.mlp_ratio,
            drop_path_rate=settings.drop_path,
            use_checkpoint=settings.grad_checkpointing,
            use_v2=settings.conv_blocks,
        )
        if not settings.last_merge:
            (last,) = getattr(self.swin, f"layers{self.stages}")
            last.downsample = None

    @property
    def layers(self) -> list[tuple[str, ...]]:
        names: list[tuple[str, ...]] = []  # of blocks, the first with its convolutions, the last with its merging
        for number in range(1, self.stages + 1):
            (stage,) = getattr(self.swin, f"layers{number}")
            prefix = f"swin.layers{number}.0"
            blocks: list[tuple[str, ...]] = [(f"{prefix}.blocks.{block}",) for block in range(len(stage.blocks))]
            if self.conv_blocks:
                blocks[0] = (f"swin.layers{number}c", *blocks[0])
            names += blocks
            if stage.downsample is not None:
                names[-1] += (f"{prefix}.downsample",)
        return names

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """The bottleneck features (B, width, *grid), normalised over the channels; see `Encoder.encode`."""
        embedded = self._embed(volume)
        if hidden is not None:
            assert token is not None
            where = hidden.reshape(len(embedded), 1, *embedded.shape[2:])
            embedded = torch.where(where, token.to(embedded.dtype).reshape(-1, 1, 1, 1), embedded)
        return self.swin.proj_out(self._stages(embedded)[-1], normalize=True)

    def maps(self, volume: Tensor) -> list[Tensor]:
        """The patches' embeddings and the output of each stage, for a decoder, finest first.

        They are (B, widths[i], *grid / 2**i, rounded up), normalised over the channels as in MONAI's network.
        """
        return [self.swin.proj_out(features, normalize=True) for features in self._stages(self._embed(volume))]

    def _embed(self, volume: Tensor) -> Tensor:
        self.check(volume)
        grid_of(tuple(volume.shape), self.patch)  # MONAI would pad the volume silently
        return self.swin.patch_embed(volume)

    def _stages(self, embedded: Tensor) -> list[Tensor]:
        """The embeddings (B, embed_width, *grid) and each stage's output, not normalised, one for each of `widths`."""
        outputs = [embedded]
        for number in range(1, self.stages + 1):
            (stage,) = getattr(self.swin, f"layers{number}")
            features = outputs[-1]
            if self.conv_blocks:
                (convolutions,) = getattr(self.swin, f"layers{number}c")
                features = convolutions(features.contiguous())
            outputs.append(stage(features))
        return [*outputs[: len(self.widths) - 1], outputs[-1]]

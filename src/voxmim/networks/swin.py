"""The Swin transformer in 3D (arXiv 2103.14030, 2201.01266): attention within shifted windows, on ever coarser maps.

MONAI's network does the work. What is added is SimMIM's way of hiding (arXiv 2111.09886): a token in the place of a
patch's embedding, so that the windows stay whole.
"""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from voxmim.networks.patches import Triple, grid_of


class Swin(nn.Module):
    """The encoder.

    Volumes are a whole number of patches along each axis. Where a map's grid is odd, merging its cells two by two
    pads it with zeros at the far end, so that the next grid is half of it rounded up.

    Args:
        channels: of the scans.
        patch: voxels of a patch along X, Y, Z: 2 or 4, the same along each axis.
        width: of a patch's embedding; every stage doubles it.
        depths: number of blocks of each stage, for two to four stages; every stage halves the grid after its blocks.
        heads: attention heads of each stage.
        window: cells of an attention window along each axis; every other block shifts the windows by half of it. It
            had better divide the grids of the stages: a grid is padded to whole windows, and in a window cut down to a
            smaller grid MONAI's relative position bias loses the axes.
        mlp_ratio: hidden width of a block's MLP over the width of the stage.
        last_merge: halve the grid after the last stage too, as MONAI does; without it the last stage's output stands in
            the place of the map that it was made of, as in the Swin paper.
        drop_path: chance of skipping the last block, rising linearly from 0 at the first.
        checkpoint: compute the blocks anew in the backward pass instead of keeping what they need for it.

    Attributes:
        embed_width: channels of a patch's embedding.
        widths: channels of the maps, finest first.
        width: channels of the deepest map.
        stride: voxels of a cell of the deepest map along X, Y, Z.

    Raises:
        ValueError: another patch, or not as many heads as depths, two to four.
    """

    def __init__(
        self,
        channels: int = 1,
        patch: Triple = (4, 4, 4),
        width: int = 48,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        last_merge: bool = True,
        drop_path: float = 0.0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if patch not in ((2, 2, 2), (4, 4, 4)):
            raise ValueError(f"Swin needs a patch of 2 or 4, the same along each axis, not {patch}")
        if len(depths) != len(heads) or not 2 <= len(depths) <= 4:
            raise ValueError(f"Swin needs as many heads as depths, two to four, not {heads} and {depths}")
        self.channels, self.patch = channels, patch
        self.stages = len(depths)
        self.widths = [width * 2**level for level in range(self.stages + last_merge)]
        self.embed_width, self.width = width, self.widths[-1]
        self.stride: Triple = (patch[0] * 2 ** (len(self.widths) - 1),) * 3
        # Its names are those of MONAI's SwinUNETR: `swin.` there reads `swinViT.`.
        self.swin = SwinTransformer(
            in_chans=channels,
            embed_dim=width,
            window_size=(window,) * 3,
            patch_size=patch,
            depths=depths,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path,
            use_checkpoint=checkpoint,
        )
        if not last_merge:
            (last,) = getattr(self.swin, f"layers{self.stages}")
            last.downsample = None

    @property
    def layers(self) -> list[tuple[str, ...]]:
        """The names of the modules of each layer, from input to output: blocks, a stage's last one with its merging."""
        names: list[tuple[str, ...]] = []
        for number in range(1, self.stages + 1):
            (stage,) = getattr(self.swin, f"layers{number}")
            prefix = f"swin.layers{number}.0"
            names += [(f"{prefix}.blocks.{block}",) for block in range(len(stage.blocks))]
            if stage.downsample is not None:
                names[-1] += (f"{prefix}.downsample",)
        return names

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the deepest map (B, width, *its grid)."""
        return self.encode(volume)

    def encode(self, volume: Tensor, hidden: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """The deepest map, of a volume with hidden patches if wished.

        Args:
            volume: (B, C, X, Y, Z).
            hidden: (B, N) bool per patch in `patchify`'s order, True means hidden; None hides nothing.
            token: (embed_width,) what stands in the place of a hidden patch's embedding; comes with `hidden`.

        Returns:
            (B, width, *its grid), normalised over the channels.

        Raises:
            ValueError: the volume is not a whole number of patches; or hidden comes without token, or token without it.
        """
        embedded = self._embed(volume)
        if hidden is not None and token is not None:
            where = hidden.reshape(len(embedded), 1, *embedded.shape[2:])
            embedded = torch.where(where, token.to(embedded.dtype).reshape(-1, 1, 1, 1), embedded)
        elif hidden is not None or token is not None:
            raise ValueError("hidden patches need a token in their place, and a token needs hidden patches")
        return self.swin.proj_out(self._stages(embedded)[-1], normalize=True)

    def maps(self, volume: Tensor) -> list[Tensor]:
        """What a decoder reads: the patches' embeddings and the output of each stage, finest first.

        Returns:
            (B, widths[i], *grid / 2**i, rounded up), normalised over the channels as MONAI's network does.

        Raises:
            ValueError: the volume is not a whole number of patches.
        """
        return [self.swin.proj_out(features, normalize=True) for features in self._stages(self._embed(volume))]

    def _embed(self, volume: Tensor) -> Tensor:
        grid_of(tuple(volume.shape), self.patch)  # MONAI would pad the volume without a word
        return self.swin.patch_embed(volume)

    def _stages(self, embedded: Tensor) -> list[Tensor]:
        """The embeddings (B, embed_width, *grid) and each stage's output, not normalised, one for each of `widths`."""
        outputs = [embedded]
        for number in range(1, self.stages + 1):
            (stage,) = getattr(self.swin, f"layers{number}")
            outputs.append(stage(outputs[-1]))
        return [*outputs[: len(self.widths) - 1], outputs[-1]]

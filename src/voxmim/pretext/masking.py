"""Which patches are hidden. A mask is bool (B, N) in `patchify`'s order; True means hidden.

Every draw is on the CPU, so that the same state of a generator gives the same masks on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from voxmim.networks.patches import Triple, grid_of, mask_to_voxels, patchify
from voxmim.settings import MaskSettings

BODY = 0.1  # of the range from the darkest to the brightest unit of a crop; what exceeds it is body


def draw_masks(
    settings: MaskSettings,
    patch: Triple,
    shape: Triple,
    batch: int,
    generator: torch.Generator | None = None,
    body: Tensor | None = None,
) -> Tensor:
    """The masks of a batch of crops, each mask unit hidden as a whole or not at all.

    Args:
        settings: kind, ratio and unit.
        patch: voxels of a patch.
        shape: voxels of a crop, a whole number of mask units.
        batch: B, the number of crops.
        generator: of the draw (on the CPU).
        body: (B, U) bool per mask unit, from `holds_body`; asked for by kind body alone.

    Returns:
        (B, N) bool over the patches on the CPU.
    """
    unit = settings.unit or patch
    grid = grid_of(shape, unit)
    if settings.kind == "body":
        assert body is not None
        units = body_mask(body, settings.ratio, settings.body_share, generator)
    elif settings.kind == "block":
        units = block_mask(batch, grid, settings.ratio, generator)
    else:
        units = random_mask(batch, grid[0] * grid[1] * grid[2], settings.ratio, generator)
    return units_to_patches(units, grid, grid_of(unit, patch))


def holds_body(volume: Tensor, unit: Triple) -> Tensor:
    """(B, U) bool: which mask units of crops (B, C, X, Y, Z) hold body.

    Those whose mean over all channels exceeds that of the crop's darkest unit by a tenth of what lies between the
    darkest and the brightest: air in CT and the background of MR do not, however the crop was brightened.
    """
    mean = patchify(volume, unit).mean(2)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    return mean > low + BODY * (high - low)


def random_mask(batch: int, patches: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Hide exactly ``round(ratio * patches)`` patches of each sample, chosen uniformly (at least 1, never all).

    Args:
        batch: B, the number of samples.
        patches: N, the number of patches of a sample.
        ratio: the share that is hidden.
        generator: of the draw (on the CPU); the same state gives the same masks on every device.

    Returns:
        (B, N) bool on the CPU.
    """
    hidden = _number_hidden(patches, ratio)
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, patches, dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True)


def block_mask(batch: int, grid: Triple, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Hide as many patches as `random_mask`, but block by block, so that what is hidden lies together.

    A block is a cuboid whose sides are drawn anew, each from a quarter to half of the grid's. The last block is trimmed
    to what is missing.

    Args:
        batch: B, the number of samples.
        grid: patches of a sample along X, Y, Z; N in all.
        ratio: the share that is hidden.
        generator: of the draw (on the CPU).

    Returns:
        (B, N) bool on the CPU.
    """
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    hidden = _number_hidden(mask[0].numel(), ratio)
    for sample in mask:
        while (missing := hidden - int(sample.sum())) > 0:
            draws = torch.rand(7, generator=generator).tolist()
            block = torch.zeros_like(sample)
            block[tuple(_stretch(*drawn) for drawn in zip(grid, draws[:3], draws[3:6], strict=True))] = True
            new = (block & ~sample).flatten().nonzero().flatten()
            # trimmed from either end alike, or one end of the grid would be hidden less often than the other
            trimmed = new[:missing] if draws[6] < 0.5 else new[-missing:]
            sample.view(-1)[trimmed] = True
    return mask.flatten(1)


def body_mask(body: Tensor, ratio: float, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Hide as many patches as `random_mask`, so that a stated share of the hidden ones lies on the body.

    Of the hidden patches of a sample, ``round(share * hidden)`` are on the body and the others off it, uniformly
    chosen in each. Where there are too few of the one kind, the other fills up. A body that fills but a part of the
    crop would be hidden whole that way, and nothing could be told of it: at least half of what a random mask would
    leave of it stays visible.

    Args:
        body: (B, N) bool, True where a patch holds body, or a score that is above 0 there.
        ratio: the share of all patches that is hidden.
        share: the share of the hidden patches that lies on the body.
        generator: of the draw (on the CPU).

    Returns:
        (B, N) bool on the CPU.
    """
    body = body.cpu() > 0
    patches = body.shape[1]
    hidden = _number_hidden(patches, ratio)
    on_body = body.sum(1, keepdim=True)
    most = on_body - (on_body * (1 - ratio) / 2).ceil().long()
    chosen = most.clamp(max=round(share * hidden)).maximum(hidden - (patches - on_body))
    # One shuffle that puts the body first: a rank counts within the body, or from the body's end on beyond it.
    rank = (torch.rand(body.shape, generator=generator) + ~body).argsort(dim=1).argsort(dim=1)
    return torch.where(body, rank < chosen, rank - on_body < hidden - chosen)


def units_to_patches(mask: Tensor, grid: Triple, times: Triple) -> Tensor:
    """Turn a mask over mask units into one over patches, each unit hidden as a whole or not at all.

    Args:
        mask: (B, U) bool over the units, in the order of patches: X, Y, Z, with Z fastest.
        grid: units along X, Y, Z.
        times: patches of a unit along X, Y, Z.

    Returns:
        (B, N) bool over the patches, in `patchify`'s order.
    """
    return mask_to_voxels(mask, grid, times).flatten(1)


def visible_index(mask: Tensor) -> Tensor:
    """(B, V) the rising index of the visible patches; each sample must have as many of them as the next."""
    return (~mask).nonzero()[:, 1].reshape(len(mask), -1)


def _number_hidden(patches: int, ratio: float) -> int:
    return min(max(round(ratio * patches), 1), patches - 1)


def _stretch(size: int, length: float, place: float) -> slice:
    """A block along an axis of so many patches, by two draws from 0 to 1.

    It may stick out of the grid at either end: otherwise the rim would be hidden less often than the middle.
    """
    least, most = -(-size // 4), -(-size // 2)
    side = least + int(length * (most - least + 1))
    start = 1 - side + int(place * (size + side - 1))
    return slice(max(start, 0), start + side)

"""Random masks: bool (B, N) in `patchify`'s order; True means hidden.

They are drawn on the CPU, so that a seed gives the same mask on every device.
"""

import math

import torch
from torch import Tensor

from voxmim.networks.patches import grid_of, mask_to_voxels, patchify
from voxmim.settings import MaskSettings, Triple

_BODY_THRESHOLD = 0.1  # of the range of the units' differences from the background


def draw_masks(settings: MaskSettings, patch: Triple, image: Tensor, seeds: Tensor) -> Tensor:
    """(B, N) bool on the CPU: the masks of a batch of crops; each mask unit is hidden completely or not at all.

    Args:
        settings: kind, ratio and unit of the masks.
        patch: voxels of a patch along X, Y, Z.
        image: (B, C, X, Y, Z), a multiple of the mask unit along each axis; only kind body uses its voxels.
        seeds: (B,) the seed of each crop's mask.
    """
    unit = settings.unit or patch
    grid = grid_of(tuple(image.shape), unit)
    body = is_body(image, unit).cpu() if settings.kind == "body" else None
    masks = []
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(int(seed) + 1)  # the seed itself draws the augmentation
        if body is not None:
            masks.append(body_mask(body[row : row + 1], settings.ratio, settings.body_fraction, generator))
        elif settings.kind == "block":
            masks.append(block_mask(1, grid, settings.ratio, generator))
        else:
            masks.append(random_mask(1, math.prod(grid), settings.ratio, generator))
    return mask_to_voxels(torch.cat(masks), grid, grid_of(unit, patch)).flatten(1)


def is_body(volume: Tensor, unit: Triple) -> Tensor:
    """(B, U) bool: whether each mask unit of crops (B, C, X, Y, Z) shows the body.

    The background is the darkest constant unit, such as air below a CT's window or the zeros around a brain; without
    constant units, the darkest one. A unit is body if its root mean square difference from the background exceeds the
    smallest difference by a tenth of their range; so the result does not depend on shift and contrast.
    """
    b, channels = volume.shape[:2]
    units = patchify(volume, unit).unflatten(2, (channels, -1))
    mean, constant = units.mean((2, 3)), (units.amax(3) == units.amin(3)).all(2)
    darkness = torch.where(constant.any(1, keepdim=True), mean.masked_fill(~constant, torch.inf), mean)
    background = units[torch.arange(b), darkness.argmin(1)].mean(-1)  # (B, C)
    difference = (units - background[:, None, :, None]).square().mean((2, 3)).sqrt()
    low, high = difference.amin(1, keepdim=True), difference.amax(1, keepdim=True)
    return difference > low + _BODY_THRESHOLD * (high - low)


def random_mask(batch: int, patches: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with ``round(ratio * patches)`` hidden in each sample, chosen uniformly (at least 1, never all)."""
    hidden = _number_hidden(patches, ratio)
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, patches, dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True)


def block_mask(batch: int, grid: Triple, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with as many hidden patches as `random_mask`, in cuboids on a grid of N patches along X, Y, Z.

    A cuboid's sides are a quarter to half of the grid's. The last cuboid is trimmed to the exact number.
    """
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    hidden = _number_hidden(mask[0].numel(), ratio)
    for sample in mask:
        while (missing := hidden - int(sample.sum())) > 0:
            draws = torch.rand(7, generator=generator).tolist()
            block = torch.zeros_like(sample)
            block[tuple(_cuboid_extent(*drawn) for drawn in zip(grid, draws[:3], draws[3:6], strict=True))] = True
            new = (block & ~sample).flatten().nonzero().flatten()
            # trim a random end, or one end of the grid would be hidden less often
            trimmed = new[:missing] if draws[6] < 0.5 else new[-missing:]
            sample.view(-1)[trimmed] = True
    return mask.flatten(1)


def body_mask(body: Tensor, ratio: float, fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with as many hidden patches as `random_mask`, a given fraction of them on the body (B, N).

    ``round(fraction * hidden)`` patches of a sample are on the body and the others off it, chosen uniformly within
    each; if one has too few, the other fills up. At least half as much of the body is visible as with a random mask: a
    small body would otherwise be hidden completely, and could not be predicted.
    """
    patches = body.shape[1]
    hidden = _number_hidden(patches, ratio)
    on_body = body.sum(1, keepdim=True)
    most = on_body - (on_body * (1 - ratio) / 2).ceil().long()
    chosen = most.clamp(max=round(fraction * hidden)).maximum(hidden - (patches - on_body))
    # One random order with the body first: ranks below `on_body` are body, the others are background.
    rank = (torch.rand(body.shape, generator=generator) + ~body).argsort(dim=1).argsort(dim=1)
    return torch.where(body, rank < chosen, rank - on_body < hidden - chosen)


def visible_index(mask: Tensor) -> Tensor:
    """(B, V) the ascending indices of the visible patches; all samples must have the same number."""
    return (~mask).nonzero()[:, 1].reshape(len(mask), -1)


def _number_hidden(patches: int, ratio: float) -> int:
    return min(max(round(ratio * patches), 1), patches - 1)


def _cuboid_extent(size: int, length: float, position: float) -> slice:
    """A cuboid's extent along an axis of `size` patches; `length` and `position` are random numbers in [0, 1).

    It may extend beyond the grid, or the border would be hidden less often than the middle.
    """
    low, high = -(-size // 4), -(-size // 2)
    side = low + int(length * (high - low + 1))
    start = 1 - side + int(position * (size + side - 1))
    return slice(max(start, 0), start + side)

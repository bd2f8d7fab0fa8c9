"""Which patches are hidden. A mask is bool (B, N) in `patchify`'s order; True means hidden.

Every draw is on the CPU, so that a seed gives the same mask on every device.
"""

import math

import torch
from torch import Tensor

from voxmim.networks.patches import grid_of, mask_to_voxels, patchify
from voxmim.settings import MaskSettings, Triple

BODY = 0.1  # of the range of the units' differences from the background; a larger difference is body


def draw_masks(settings: MaskSettings, patch: Triple, image: Tensor, seeds: Tensor) -> Tensor:
    """(B, N) bool on the CPU: the masks of a batch of crops; each mask unit is hidden completely or not at all.

    Args:
        settings: what is hidden.
        patch: voxels of a patch along X, Y, Z.
        image: (B, C, X, Y, Z), a multiple of the mask unit along each axis; only kind body looks at its voxels.
        seeds: (B,) from which each crop's mask follows.
    """
    unit = settings.unit or patch
    grid = grid_of(tuple(image.shape), unit)
    body = holds_body(image, unit).cpu() if settings.kind == "body" else None
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


def holds_body(volume: Tensor, unit: Triple) -> Tensor:
    """(B, U) bool: which mask units of crops (B, C, X, Y, Z) hold body.

    The background is the darkest unit of a single value, such as air below a CT's window or the zeros around a brain,
    or else the darkest unit. A unit holds body if its root mean square difference from the background exceeds the
    smallest one by a tenth of their range, so that shifts and contrast do not matter.
    """
    b, channels = volume.shape[:2]
    units = patchify(volume, unit).unflatten(2, (channels, -1))
    mean, constant = units.mean((2, 3)), (units.amax(3) == units.amin(3)).all(2)
    darkness = torch.where(constant.any(1, keepdim=True), mean.masked_fill(~constant, torch.inf), mean)
    background = units[torch.arange(b), darkness.argmin(1)].mean(-1)  # (B, C)
    difference = (units - background[:, None, :, None]).square().mean((2, 3)).sqrt()
    low, high = difference.amin(1, keepdim=True), difference.amax(1, keepdim=True)
    return difference > low + BODY * (high - low)


def random_mask(batch: int, patches: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with ``round(ratio * patches)`` hidden in each sample, chosen uniformly (at least 1, never all)."""
    hidden = _number_hidden(patches, ratio)
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, patches, dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True)


def block_mask(batch: int, grid: Triple, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with as many hidden as in `random_mask`, in cuboids on a grid of N patches along X, Y, Z.

    Each side of a cuboid is drawn from a quarter to half of the grid's. The last cuboid is trimmed to the exact number.
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


def body_mask(body: Tensor, ratio: float, fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """(B, N) with as many hidden as in `random_mask`, a given fraction of them on the body (B, N).

    Of the hidden patches of a sample, ``round(fraction * hidden)`` are on the body and the others off it, chosen
    uniformly within each; where one kind has too few, the other fills up. At least half of the body that a random mask
    would leave visible stays visible: a small body would otherwise be hidden completely, and could not be predicted.
    """
    patches = body.shape[1]
    hidden = _number_hidden(patches, ratio)
    on_body = body.sum(1, keepdim=True)
    most = on_body - (on_body * (1 - ratio) / 2).ceil().long()
    chosen = most.clamp(max=round(fraction * hidden)).maximum(hidden - (patches - on_body))
    # One shuffle that puts the body first: a rank counts within the body, or from the body's end on beyond it.
    rank = (torch.rand(body.shape, generator=generator) + ~body).argsort(dim=1).argsort(dim=1)
    return torch.where(body, rank < chosen, rank - on_body < hidden - chosen)


def visible_index(mask: Tensor) -> Tensor:
    """(B, V) the rising index of the visible patches; all samples must have the same number."""
    return (~mask).nonzero()[:, 1].reshape(len(mask), -1)


def _number_hidden(patches: int, ratio: float) -> int:
    return min(max(round(ratio * patches), 1), patches - 1)


def _stretch(size: int, length: float, position: float) -> slice:
    """A cuboid's extent along an axis of `size` patches, from two draws between 0 and 1.

    It may reach beyond the grid at either end: otherwise the rim would be hidden less often than the middle.
    """
    low, high = -(-size // 4), -(-size // 2)
    side = low + int(length * (high - low + 1))
    start = 1 - side + int(position * (size + side - 1))
    return slice(max(start, 0), start + side)

"""Sliding-window prediction of a scan in slabs, so that the probabilities of the whole scan are never in memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.images.geometry import Grid, resample_probabilities, resample_to_label_map
from voxmim.networks.precision import working_dtype
from voxmim.settings import Triple
from voxmim.store.crops import has_contrast
from voxmim.tasks.segmentation.structures import Structures
from voxmim.workers import return_memory

BATCH_VOXELS = 64**3  # of a batch of windows: small windows one by one are slow
_SLAB_VALUES = 2**24  # probabilities of a slab; 64 MiB
_CACHED_VALUES = 2**20  # probabilities that are computed at once, to stay in cache
_LARGE_SUMS = 2**29  # values; more are summed in float16, which changes labels only where two are equally likely

Slab = tuple[int, Tensor]
"""Its first plane along the scan's longest axis, and its probabilities (K, X, Y, Z) float32."""


def longest_axis(shape: Triple) -> int:
    """The axis along which a scan is cut into slabs."""
    return int(np.argmax(shape))


def window_starts(size: int, crop: int, overlap: float) -> list[int]:
    """The first voxel of each window along one axis; the last window is moved back to end with the scan."""
    step = max(1, int(crop * (1 - overlap)))
    count = max(0, math.ceil((size - crop) / step)) + 1
    return sorted({min(at * step, max(0, size - crop)) for at in range(count)})


def window_count(shape: Triple, crop: Triple, overlap: float) -> int:
    """The number of windows of a scan."""
    return math.prod(len(window_starts(size, length, overlap)) for size, length in zip(shape, crop, strict=True))


@torch.no_grad()
def predict_slabs(
    network: nn.Module,
    image: Tensor,
    crop: Triple,
    overlap: float,
    precision: str = "auto",
    activate: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(dim=1),
) -> Iterator[Slab]:
    """Probabilities of a scan's labels or regions, in slabs along its longest axis.

    Overlapping windows are averaged with Gaussian weights, so that windows count most near their centre. A scan smaller
    than the window is padded. Windows without contrast, such as air around a CT, are computed once for each value.

    Args:
        network: returns logits (B, K, *crop) for crops (B, C, *crop); in evaluation mode.
        image: (C, X, Y, Z) float32, the network's input.
        crop: the size of a window, which is that of the training crops.
        overlap: of neighbouring windows, as a fraction of the window.
        precision: of the recipe; see `working_dtype`.
        activate: turns logits (B, K, ...) into probabilities.

    Yields:
        consecutive slabs, on the CPU.
    """
    device = next(network.parameters()).device
    shape: Triple = (image.shape[1], image.shape[2], image.shape[3])
    axis = longest_axis(shape)
    pads = [max(0, length - size) for size, length in zip(shape, crop, strict=True)]
    before = [pad // 2 for pad in pads]
    around = [n for a in (2, 1, 0) for n in (before[a], pads[a] - before[a])]
    padded = (functional.pad(image, around) if any(pads) else image).to(device)
    inside = _box(tuple(before), shape)
    starts = [window_starts(size, length, overlap) for size, length in zip(padded.shape[1:], crop, strict=True)]
    cached_network = _CachedNetwork(network, working_dtype(device, precision))
    weight = _gaussian(crop).to(device)
    # Sums of weighted probabilities and of weights, over as many planes as a window has, from plane `first` on.
    planes = list(padded.shape[1:])
    planes[axis] = crop[axis]
    total, norm, first = torch.zeros(0), torch.zeros(*planes, device=device), 0
    others = [starts[a] if a != axis else [0] for a in range(3)]

    def free() -> None:
        """With many labels, logits and slabs are so large that gaps between kept arrays would add up to gigabytes."""
        if total.dtype == torch.float16:
            return_memory()

    def finished(count: int) -> Iterator[Slab]:
        """The first `count` planes without padding, a few at a time, because they are float32 whatever the sums are."""
        thick = max(1, _SLAB_VALUES * crop[axis] // total.numel())
        for at in range(first, first + count, thick):
            low, high = (min(max(n - before[axis], 0), shape[axis]) for n in (at, min(at + thick, first + count)))
            if low < high:
                kept = list(inside)
                kept[axis] = slice(low + before[axis] - first, high + before[axis] - first)
                yield low, (total[(slice(None), *kept)] / norm[tuple(kept)]).cpu()  # float32, as norm is
                free()

    for at in starts[axis]:
        if at > first:
            yield from finished(at - first)
            for sums in (total, norm):
                _shift(sums, sums.dim() - 3 + axis, at - first)
            first = at
        places = [tuple(at if a == axis else place[a] for a in range(3)) for place in product(*others)]
        size = max(1, BATCH_VOXELS // math.prod(crop))
        for group in (places[number : number + size] for number in range(0, len(places), size)):
            crops = torch.stack([padded[(slice(None), *_box(place, crop))] for place in group])
            for place, logits in zip(group, cached_network(crops), strict=True):
                box = list(_box(place, crop))
                box[axis] = slice(0, crop[axis])
                if not len(total):
                    values = len(logits) * math.prod(planes)
                    dtype = torch.float32 if values <= _LARGE_SUMS else torch.float16
                    # channels last, as the network's output
                    total = torch.zeros(*planes, len(logits), device=device, dtype=dtype).permute(3, 0, 1, 2)
                _add(total[(slice(None), *box)], logits, weight, activate)
                norm[tuple(box)] += weight
            del logits  # before those of the next windows need memory
            free()
    yield from finished(crop[axis])


def _add(sums: Tensor, logits: Tensor, weight: Tensor, activate: Callable[[Tensor], Tensor]) -> None:
    """Add a window's weighted probabilities to the sums (K, *crop), a few planes at a time to stay in cache."""
    thick = max(1, _CACHED_VALUES // logits[:, 0].numel())
    for at in range(0, logits.shape[1], thick):
        part = slice(at, at + thick)
        sums[:, part].addcmul_(activate(logits[None, :, part].float())[0], weight[part])


def _shift(sums: Tensor, dim: int, by: int) -> None:
    """Move planes to the front by `by` in place, and set those at the end to 0."""
    size = sums.shape[dim]
    for at in range(by, size, by):
        count = min(by, size - at)
        sums.narrow(dim, at - by, count).copy_(sums.narrow(dim, at, count))
    sums.narrow(dim, size - by, by).zero_()


def average_slabs(members: Sequence[Iterator[Slab]], weights: Sequence[float], axis: int) -> Iterator[Slab]:
    """The weighted mean of the probabilities of several networks for one scan.

    Args:
        members: the slabs of each network; their planes may be divided differently.
        weights: of the networks.
        axis: along which the slabs follow each other.

    Yields:
        consecutive slabs; one ends wherever a slab of any member ends.
    """
    slabs = [next(member) for member in members]
    total = sum(weights)
    while True:
        start, count = slabs[0][0], min(slab.shape[axis + 1] for _, slab in slabs)
        mean = torch.zeros_like(slabs[0][1].narrow(axis + 1, 0, count))
        for (_, slab), weight in zip(slabs, weights, strict=True):
            mean.add_(slab.narrow(axis + 1, 0, count), alpha=weight / total)
        yield start, mean
        left = []
        for member, (_, slab) in zip(members, slabs, strict=True):
            rest = slab.shape[axis + 1] - count
            following = (start + count, slab.narrow(axis + 1, count, rest)) if rest else next(member, None)
            if following is None:  # all end with the scan
                return
            left.append(following)
        slabs = left


def joined(slabs: Iterator[Slab], shape: Triple) -> Tensor:
    """(K, X, Y, Z) float32 probabilities of all slabs of a scan of this shape."""
    return torch.cat([slab for _, slab in slabs], dim=1 + longest_axis(shape))


def prepared_label_map(slabs: Iterator[Slab], shape: Triple, structures: Structures) -> np.ndarray:
    """(X, Y, Z) uint8 label map on the prepared grid."""
    return np.concatenate([structures.decide(slab.numpy()) for _, slab in slabs], axis=longest_axis(shape))


def original_label_map(slabs: Iterator[Slab], grid: Grid, original: Grid, structures: Structures) -> np.ndarray:
    """(X, Y, Z) uint8 label map on the scan's own grid, `original`, from slabs on the prepared one, `grid`.

    The two grids differ in spacing and in the order and direction of their axes. Voxels outside the prepared grid are
    background.
    """
    axis = longest_axis(grid.shape)
    row = (np.linalg.inv(grid.affine) @ original.affine)[axis]
    own_axis = int(np.abs(row[:3]).argmax())
    index = row[own_axis] * np.arange(original.shape[own_axis]) + row[3]  # of the original planes in the prepared grid
    aligned = np.allclose(np.abs(row[own_axis]), 1, atol=1e-4) and np.allclose(index, np.rint(index), atol=1e-4)
    # planes that interpolation and smoothing of `resample` need
    margin = 0 if aligned else 2 + math.ceil(2 * abs(row[own_axis]))
    result = np.zeros(original.shape, dtype=np.uint8)
    for start, stop, first, slab in _with_margin(slabs, axis, grid.shape[axis], margin):
        low = -np.inf if start == 0 else start - 0.5
        high = np.inf if stop == grid.shape[axis] else stop - 0.5
        planes = np.flatnonzero((index >= low) & (index < high))
        if not len(planes):
            continue
        source = [slice(0, size) for size in grid.shape]
        source[axis] = slice(first, first + slab.shape[axis + 1])
        target = [slice(0, size) for size in original.shape]
        target[own_axis] = slice(int(planes[0]), int(planes[-1]) + 1)
        old, new = grid.crop((source[0], source[1], source[2])), original.crop((target[0], target[1], target[2]))
        probabilities = slab.contiguous().numpy()  # channels first
        if structures.regions:
            labels = structures.decide(resample_probabilities(probabilities, old, new, None))
        else:
            labels = np.asarray(structures.values, dtype=np.uint8)[resample_to_label_map(probabilities, old, new)]
        result[tuple(target)] = labels
    return result


def _with_margin(slabs: Iterator[Slab], axis: int, size: int, margin: int) -> Iterator[tuple[int, int, int, Tensor]]:
    """Slabs with a margin, as (start, stop, first, planes): `planes` begin at `first` and contain start..stop."""
    planes, first, done = torch.zeros(0), 0, 0
    for start, slab in slabs:
        planes = slab if not len(planes) else torch.cat([planes, slab], dim=axis + 1)
        end = start + slab.shape[axis + 1]
        ready = size if end == size else end - margin
        if ready <= done:
            continue
        yield done, ready, first, planes
        done = ready
        keep = max(first, done - margin)
        planes, first = planes.narrow(axis + 1, keep - first, end - keep).clone(), keep


class _CachedNetwork:
    """Calls the network, but only once for all constant windows of the same values."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self._network, self._dtype = network, dtype
        self._constant: dict[tuple[float, ...], Tensor] = {}  # logits by the values of the channels

    def __call__(self, crops: Tensor) -> list[Tensor]:
        """Logits (K, *crop) of each of the crops (B, C, *crop)."""
        keys = [None if has_contrast(crop) else tuple(crop[:, 0, 0, 0].tolist()) for crop in crops]
        rows = [
            row for row, key in enumerate(keys) if key is None or (key not in self._constant and keys.index(key) == row)
        ]
        computed: dict[int, Tensor] = {}
        if rows:
            with torch.autocast(crops.device.type, self._dtype, enabled=self._dtype != torch.float32):
                computed = dict(zip(rows, self._network(crops[rows]), strict=True))
        self._constant |= {key: computed[row] for row, key in enumerate(keys) if key is not None and row in computed}
        return [computed[row] if key is None else self._constant[key] for row, key in enumerate(keys)]


def _gaussian(crop: Triple) -> Tensor:
    """(*crop) weights of a window's voxels: a Gaussian with a sigma of an eighth of the window, at least 1e-3."""
    x, y, z = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (0.125 * n)) ** 2) for n in crop)
    return (x[:, None, None] * y[:, None] * z).clamp(min=1e-3)


def _box(start: tuple[int, ...], size: Triple) -> tuple[slice, ...]:
    return tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))

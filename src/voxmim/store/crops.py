"""Random crops, and the stream of them that a training reads.

Everything random about crop number n is determined by (seed, n): the scan, the position, and the seed of its
augmentation. So a resumed training continues with exactly the same crops.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from voxmim.errors import StoreError
from voxmim.images.intensity import window
from voxmim.store.format import Case, Store
from voxmim.text import counted

Triple = tuple[int, int, int]

_MAX_DRAWS = 8  # of the position of a crop, until the crop is not constant
_AHEAD = 2  # batches that are read ahead


class Batch(NamedTuple):
    """Crops of one training step."""

    image: Tensor  # (B, C, X, Y, Z) float32, the network's input
    label: Tensor  # (B, 1, X, Y, Z) int64, or (B, 1, 0, 0, 0) if labels are not read
    seed: Tensor  # (B,) int64, of each crop's augmentation
    names: list[str]  # the case of each crop
    present: Tensor  # (B, C) bool, the channels of each crop; the others are 0
    numbers: Sequence[int] = ()  # the number of each crop in the stream


@dataclass(frozen=True)
class CropPlan:
    """The settings of crops."""

    size: Triple  # voxels along X, Y, Z
    window: tuple[float, float]  # HU range that becomes 0..1 (CT only)
    seed: int
    crops_per_scan: int = 1  # consecutive crops from one scan
    labelled: bool = False  # whether labels are read
    foreground: float = 0.0  # fraction of crops centred on a labelled voxel, each label equally likely
    # if set, crops 2n and 2n + 1 are two views, which overlap by at least this fraction along each axis;
    # `crops_per_scan` counts pairs
    views: float | None = None
    # the channels in a crop: all, a random subset of a random size, or a single random one as the only channel
    channels: Literal["all", "drawn", "one"] = "all"


Row = tuple[Tensor, Tensor, int, str, Tensor]


class Crops:
    """An endless numbered stream of crops.

    Each round visits every scan once, in a new random order. A scan that cannot be read is added to `damaged` (error by
    name) and replaced by other scans.
    """

    def __init__(
        self, store: Store, cases: Sequence[Case], plan: CropPlan, damaged: dict[str, str] | None = None
    ) -> None:
        if not cases:
            raise StoreError(f"{store.path}: there is no case to train on; look at the splits of the store.")
        self.store, self.cases, self.plan = store, list(cases), plan
        self.damaged = {} if damaged is None else damaged
        self._round = -1
        self._order = np.arange(0)

    def __getitem__(self, number: int) -> Row:
        return self._row(number, self._empty(1)[0])

    def _empty(self, count: int) -> Tensor:
        """Memory for the images of `count` crops."""
        return torch.empty(count, len(self.store.preparation.channels), *self.plan.size)

    def _row(self, number: int, out: Tensor) -> Row:
        """Read a crop; its image (C, X, Y, Z) is written into `out`."""
        visit = (number if self.plan.views is None else number // 2) // self.plan.crops_per_scan
        while True:
            case = self._case_of(visit)
            try:
                return self._cut(case, number, out)
            except StoreError as error:
                self.damaged[case.name] = str(error)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The crops of these numbers; read again if a scan was damaged, so that two views are of the same scan."""
        damaged, images = -1, self._empty(len(numbers))
        while damaged != len(self.damaged):
            damaged = len(self.damaged)
            rows = [self._row(number, out) for number, out in zip(numbers, images, strict=True)]
        shown, labels, seeds, names, present = zip(*rows, strict=True)
        if self.plan.channels == "one":  # fewer than were read
            images = torch.stack(shown)
        return Batch(images, torch.stack(labels), torch.tensor(seeds), list(names), torch.stack(present), numbers)

    def _cut(self, case: Case, number: int, out: Tensor) -> Row:
        plan = self.plan
        rng = np.random.default_rng([plan.seed, 1, number])
        if plan.labelled:
            centre = self._centre(case, rng) if rng.random() < plan.foreground else None
            image, label = read_crop(self.store, case, draw_start(case.shape, plan.size, rng, centre), plan, out)
        elif plan.views is not None and number % 2:
            partner, *_ = self._draw(case, np.random.default_rng([plan.seed, 1, number - 1]), out)
            start = draw_near(partner, case.shape, plan.size, plan.views, rng)
            image, label = read_crop(self.store, case, start, plan, out)
        else:
            _, image, label = self._draw(case, rng, out)
        shown = channels_of(case, len(image))
        if plan.channels != "all":
            shown = draw_channels(shown, plan.channels == "one", np.random.default_rng([plan.seed, 2, number]))
        image, present = show(image, shown, plan)
        return image, label, int(rng.integers(2**62)), case.name, present

    def _draw(self, case: Case, rng: np.random.Generator, out: Tensor) -> tuple[Triple, Tensor, Tensor]:
        """The start and voxels of a random crop; drawn again while it is constant, such as air around a CT."""
        for _ in range(_MAX_DRAWS):
            start = draw_start(case.shape, self.plan.size, rng)
            image, label = read_crop(self.store, case, start, self.plan, out)
            if has_contrast(image):
                break
        return start, image, label

    def _case_of(self, visit: int) -> Case:
        round_number, index = divmod(visit, len(self.cases))
        if round_number != self._round:
            self._order = np.random.default_rng([self.plan.seed, 0, round_number]).permutation(len(self.cases))
            self._round = round_number
        case = self.cases[int(self._order[index])]
        if case.name not in self.damaged:
            return case
        for other in np.random.default_rng([self.plan.seed, 3, visit]).permutation(len(self.cases)):
            if self.cases[other].name not in self.damaged:
                return self.cases[other]
        raise StoreError(
            f"{self.store.path}: none of {counted(len(self.cases), 'scan')} can be read; run 'voxmim prepare' again."
        )

    def _centre(self, case: Case, rng: np.random.Generator) -> np.ndarray | None:
        samples = self.store.samples(case.name)
        if not samples:
            return None
        rows = samples[int(rng.choice(sorted(samples)))]
        return rows[rng.integers(len(rows))]


def batches(crops: Crops, batch: int, first_step: int, steps: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Yield this process's crops of every step, from `first_step` on; a thread reads ahead.

    Step s has crops s*batch to (s+1)*batch, which are divided equally among the `world` processes in order of their
    `rank`, so that the crops of a step do not depend on the number of processes.
    """
    size = batch // world
    reader = copy.copy(crops)  # the thread has its own open files and damaged scans
    reader.store, reader.damaged = copy.copy(crops.store), dict(crops.damaged)

    def read(step: int) -> tuple[Batch, dict[str, str]]:
        first = step * batch + rank * size
        return reader.batch(range(first, first + size)), dict(reader.damaged)

    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(read, step) for step in range(first_step, min(first_step + _AHEAD, steps)))
        for step in range(first_step, steps):
            crops_of_step, damaged = ahead.popleft().result()
            if step + _AHEAD < steps:
                ahead.append(thread.submit(read, step + _AHEAD))
            crops.damaged.update(damaged)
            yield crops_of_step


def draw_start(shape: Triple, size: Triple, rng: np.random.Generator, centre: np.ndarray | None = None) -> Triple:
    """A random first voxel of a crop inside the scan, or of one near `centre`.

    If the scan is smaller than the crop, the start is negative and the scan is at a random position inside the crop.
    """
    start = []
    for axis in range(3):
        room = shape[axis] - size[axis]
        low, high = min(0, room), max(0, room)
        drawn = int(rng.integers(low, high + 1))
        if centre is not None and room > 0:
            reach = size[axis] // 4
            drawn = int(np.clip(centre[axis] - size[axis] // 2 + rng.integers(-reach, reach + 1), low, high))
        start.append(drawn)
    return start[0], start[1], start[2]


def draw_near(start: Triple, shape: Triple, size: Triple, overlap: float, rng: np.random.Generator) -> Triple:
    """A random first voxel of a crop that overlaps the one at `start` by at least this fraction along each axis."""
    near = []
    for axis in range(3):
        room, reach = shape[axis] - size[axis], int((1 - overlap) * size[axis])
        low, high = max(min(0, room), start[axis] - reach), min(max(0, room), start[axis] + reach)
        near.append(int(rng.integers(low, high + 1)))
    return near[0], near[1], near[2]


def channels_of(case: Case, channels: int) -> Tensor:
    """(C,) bool: the channels that a case has."""
    return torch.tensor([channel not in case.missing for channel in range(channels)])


def draw_channels(present: Tensor, one: bool, rng: np.random.Generator) -> Tensor:
    """(C,) bool: one of the channels that are `present`, or a random subset of a random size."""
    channels = np.flatnonzero(present)
    shown = torch.zeros_like(present)
    shown[rng.permutation(channels)[: 1 if one else rng.integers(1, len(channels) + 1)]] = True
    return shown


def show(image: Tensor, shown: Tensor, plan: CropPlan) -> tuple[Tensor, Tensor]:
    """Set the channels of a crop (C, X, Y, Z) that are not `shown` to 0, or remove them if one is; also `present`."""
    if plan.channels == "one":
        return image[shown], shown[shown]
    if not shown.all():
        image[~shown] = 0
    return image, shown


def has_contrast(image: Tensor) -> bool:
    """Whether any channel of (..., C, X, Y, Z) is not constant."""
    first = image[..., :1, :1, :1]
    return bool((image[..., ::8, ::8, ::8] != first).any() or (image != first).any())  # a few voxels suffice for most


def middle_start(shape: Triple, size: Triple) -> Triple:
    """First voxel of the crop in the middle of the scan (negative if the scan is smaller)."""
    x, y, z = ((n - s) // 2 for n, s in zip(shape, size, strict=True))
    return x, y, z


def read_crop(
    store: Store, case: Case, start: Triple, plan: CropPlan, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read one crop: image (C, *size) float32, into `out` if given, and label (1, *size) int64 or an empty one."""
    stored = store.crop(case.name, start, plan.size, plan.crops_per_scan)
    into = None if out is None else out.numpy()
    image = torch.from_numpy(window(stored, store.preparation.intensity, plan.window, into))
    if not plan.labelled:
        return image, torch.zeros(1, 0, 0, 0, dtype=torch.int64)
    label = store.label_crop(case.name, start, plan.size, plan.crops_per_scan)
    return image, torch.from_numpy(label[None].astype(np.int64))

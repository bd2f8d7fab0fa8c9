"""Where crops are cut, and the stream of them that a training reads.

Everything random about crop number n follows from (seed, n) alone: which scan, where, and the seed of its
augmentation. A training that stopped goes on with exactly the crops it would have had. Where a scan cannot be read
any more, its turns go to others, which follow from (seed, n) and from the scans that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from voxmim.errors import StoreError
from voxmim.images.intensity import window
from voxmim.store.format import Case, Store

Triple = tuple[int, int, int]

_DRAWS = 8  # of a crop in a scan whose crops show nothing, the last of which is taken as it is


class Batch(NamedTuple):
    """Crops of one training step.

    Attributes:
        image: (B, C, X, Y, Z) float32, intensities as the network sees them.
        label: (B, 1, X, Y, Z) int64, or (B, 1, 0, 0, 0) where none are read.
        seed: (B,) int64, the seed of each crop's augmentation.
        names: the case of each crop.
        present: (B, C) bool, the channels that each crop shows; the others are 0.
        numbers: the place of each crop in the stream.
    """

    image: Tensor
    label: Tensor
    seed: Tensor
    names: list[str]
    present: Tensor
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class CropPlan:
    """How crops are cut.

    Attributes:
        size: voxels along X, Y, Z.
        window: HU range that becomes 0..1 (CT only).
        seed: of everything random.
        crops_per_scan: crops in a row that come from one scan.
        labelled: read labels too.
        foreground: share of crops centred on a labelled voxel, each label equally likely.
        views: where set, crops 2n and 2n + 1 are two views of one place (a pair, which is what `crops_per_scan`
            counts), and each shows at least this share of the other along each axis.
        channels: what a crop shows of the channels that its scan has: all, a part drawn at random (first how many,
            then which), or one, drawn at random, alone.
    """

    size: Triple
    window: tuple[float, float]
    seed: int
    crops_per_scan: int = 1
    labelled: bool = False
    foreground: float = 0.0
    views: float | None = None
    channels: Literal["all", "drawn", "one"] = "all"


Row = tuple[Tensor, Tensor, int, str, Tensor]


class Crops(Dataset[Row]):
    """An endless numbered stream of crops; crop n is the same whenever it is asked for.

    Every scan is visited once, in an order drawn anew, before any is visited again.

    Args:
        store: of the scans.
        cases: the scans to cut from.
        plan: how crops are cut.
        damaged: what is wrong with each scan that cannot be read, by its name; it is left out from then on. Those that
            are met are added.
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
        plan = self.plan
        visit = (number if plan.views is None else number // 2) // plan.crops_per_scan
        while True:
            case = self._case_of(visit)
            try:
                return self._cut(case, number)
            except StoreError as error:
                self.damaged[case.name] = str(error)

    def __getitems__(self, numbers: Sequence[int]) -> tuple[Batch, dict[str, str]]:
        """A batch, and which scans are damaged so far, which a worker process thus tells.

        Where damage is met, all crops are read again, so that two views of one place still come from one scan.
        """
        known = -1
        while known != len(self.damaged):
            known = len(self.damaged)
            rows = [self[number] for number in numbers]
        return _collate(rows, numbers), self.damaged

    def _cut(self, case: Case, number: int) -> Row:
        plan = self.plan
        rng = np.random.default_rng([plan.seed, 1, number])
        if plan.labelled:
            centre = self._centre(case, rng) if rng.random() < plan.foreground else None
            start = draw_start(case.shape, plan.size, rng, centre)
            image, label = read_crop(self.store, case, start, plan)
        elif plan.views is not None and number % 2:
            partner, *_ = self._drawn(case, np.random.default_rng([plan.seed, 1, number - 1]))
            start = draw_near(partner, case.shape, plan.size, plan.views, rng)
            image, label = read_crop(self.store, case, start, plan)
        else:
            _, image, label = self._drawn(case, rng)
        shown = there = channels_of(case, len(image))
        if plan.channels != "all":
            shown = draw_channels(there, plan.channels == "one", np.random.default_rng([plan.seed, 2, number]))
        image, present = show(image, shown, plan)
        return image, label, int(rng.integers(2**62)), case.name, present

    def _drawn(self, case: Case, rng: np.random.Generator) -> tuple[Triple, Tensor, Tensor]:
        """A crop without labels, and where it starts: drawn anew, up to `_DRAWS` times in all, while it shows nothing.

        The air around a CT is one value, from which there is nothing to learn.
        """
        for _ in range(_DRAWS):
            start = draw_start(case.shape, self.plan.size, rng)
            image, label = read_crop(self.store, case, start, self.plan)
            if has_contrast(image):
                break
        return start, image, label

    def _case_of(self, visit: int) -> Case:
        turn, place = divmod(visit, len(self.cases))
        if turn != self._round:
            self._order = np.random.default_rng([self.plan.seed, 0, turn]).permutation(len(self.cases))
            self._round = turn
        case = self.cases[int(self._order[place])]
        if case.name not in self.damaged:
            return case
        others = np.random.default_rng([self.plan.seed, 3, visit]).permutation(len(self.cases))
        for other in others:
            if self.cases[other].name not in self.damaged:
                return self.cases[other]
        raise StoreError(f"{self.store.path}: none of {len(self.cases)} scans can be read; run 'voxmim prepare' again.")

    def _centre(self, case: Case, rng: np.random.Generator) -> np.ndarray | None:
        samples = self.store.samples(case.name)
        if not samples:
            return None
        rows = samples[int(rng.choice(sorted(samples)))]
        return rows[rng.integers(len(rows))]


def draw_start(
    shape: Triple, size: Triple, rng: np.random.Generator, centre: np.ndarray | None = None
) -> tuple[int, int, int]:
    """First voxel of a crop: uniform where the crop fits, or around `centre`, never leaving the scan needlessly.

    Where the scan is smaller than the crop, the start is negative and the scan lies at random inside the crop.
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
    """First voxel of a crop that shares at least `overlap` of each axis with the crop at `start`, uniformly drawn."""
    near = []
    for axis in range(3):
        room, reach = shape[axis] - size[axis], int((1 - overlap) * size[axis])
        low, high = max(min(0, room), start[axis] - reach), min(max(0, room), start[axis] + reach)
        near.append(int(rng.integers(low, high + 1)))
    return near[0], near[1], near[2]


def channels_of(case: Case, channels: int) -> Tensor:
    """(C,) bool: which of the store's channels a case has."""
    return torch.tensor([channel not in case.missing for channel in range(channels)])


def draw_channels(there: Tensor, one: bool, rng: np.random.Generator) -> Tensor:
    """(C,) bool: one of the channels that are `there`, or as many as are drawn, each number equally likely."""
    known = np.flatnonzero(there)
    shown = torch.zeros_like(there)
    shown[rng.permutation(known)[: 1 if one else rng.integers(1, len(known) + 1)]] = True
    return shown


def show(image: Tensor, shown: Tensor, plan: CropPlan) -> tuple[Tensor, Tensor]:
    """A crop (C, X, Y, Z) with 0 in the channels that are not `shown`, or with the one that is alone; and `present`."""
    if plan.channels == "one":
        return image[shown], shown[shown]
    image[~shown] = 0
    return image, shown


def has_contrast(image: Tensor) -> bool:
    """Whether any channel of (..., C, X, Y, Z) holds more than one value."""
    axes = (-3, -2, -1)
    return bool((image.amin(axes) < image.amax(axes)).any())


def middle_start(shape: Triple, size: Triple) -> Triple:
    """First voxel of the crop in the middle of the scan (negative where the scan is smaller)."""
    x, y, z = ((n - s) // 2 for n, s in zip(shape, size, strict=True))
    return x, y, z


def read_crop(store: Store, case: Case, start: Triple, plan: CropPlan) -> tuple[Tensor, Tensor]:
    """Read one crop: image (C, *size) float32, and label (1, *size) int64 or an empty one."""
    stored = store.crop(case.name, start, plan.size)
    image = torch.from_numpy(window(stored, store.preparation.intensity, plan.window))
    if not plan.labelled:
        return image, torch.zeros(1, 0, 0, 0, dtype=torch.int64)
    return image, torch.from_numpy(store.label_crop(case.name, start, plan.size)[None].astype(np.int64))


def batches(
    crops: Crops, batch: int, first_step: int, steps: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """Yield this process's share of every step's crops, from `first_step` on.

    Step s holds crops s*batch to (s+1)*batch; process r of `world` gets an equal run of them, so that the crops
    of a step are the same however many processes share them.
    """
    share = batch // world
    first = rank * share
    numbers = [list(range(step * batch + first, step * batch + first + share)) for step in range(first_step, steps)]
    for read, damaged in DataLoader(crops, batch_sampler=numbers, collate_fn=_as_it_is, num_workers=workers):
        for name, what in damaged.items():  # a worker process has an account of its own
            crops.damaged.setdefault(name, what)
        yield read


def _as_it_is(read: Any) -> Any:
    return read


def _collate(rows: list[Row], numbers: Sequence[int]) -> Batch:
    images, labels, seeds, names, present = zip(*rows, strict=True)
    whole = torch.stack(images), torch.stack(labels), torch.tensor(seeds), list(names), torch.stack(present)
    return Batch(*whole, numbers)

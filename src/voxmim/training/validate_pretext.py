"""Validation of a pre-training on fixed crops with fixed masks or views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxmim.pretext.pretext import Pretext
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops, batches, channels_of, middle_start, read_crop, show
from voxmim.store.format import Case, Store
from voxmim.training.damage import Damage
from voxmim.training.one_process import Fabric


@dataclass
class Validation:
    """Computes a pretext's figures on validation cases."""

    fabric: Fabric  # launched
    network: Pretext  # unwrapped
    store: Store
    cases: Sequence[Case]
    plan: CropPlan  # how crops are cut
    recipe: Recipe
    augmented: Callable[[Batch], Batch] = field(default=lambda batch: batch)  # used for views only
    damage: Damage = field(default_factory=Damage)

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """The figures by name; none if no case can be read."""
        with self.fabric.autocast():
            return self._views() if self.network.views == 2 else self._single_crops()

    def _single_crops(self) -> dict[str, float]:
        """Mean figures over the middle crops of the cases, with the same masks every time."""
        index, rows = {case.name: i for i, case in enumerate(self.cases)}, []
        for case, (image, present) in self.damage.readable(self.cases, lambda case: self._middle(case, index)):
            seeds = torch.tensor([self.recipe.seed * 7_368_787 + index[case.name]])
            output = self.network(*self.network.inputs(self.fabric.to_device(image), seeds, present))
            rows.append({name: float(value) for name, value in self.network.figures(output).items()})
        return {name: float(np.mean([row[name] for row in rows])) for name in self.network.columns} if rows else {}

    def _middle(self, case: Case, index: dict[str, int]) -> tuple[Tensor, Tensor]:
        """The middle crop (1, C, X, Y, Z) of a case, and which channels (1, C) are present.

        If crops show a single channel, the cases show their channels in turn.
        """
        image, _ = read_crop(self.store, case, middle_start(case.shape, self.plan.size), self.plan)
        shown = channels_of(case, len(image))
        if self.plan.channels == "one":
            known = shown.nonzero().flatten()
            shown = torch.arange(len(image)) == known[index[case.name] % len(known)]
        image, present = show(image, shown, self.plan)
        return image[None], present[None]

    def _views(self) -> dict[str, float]:
        """Figures of one fixed batch of views, averaged over all processes."""
        crops = Crops(self.store, self.cases, replace(self.plan, crops_per_scan=1), self.damage.errors)
        size = self.network.views * self.recipe.pretrain.batch
        (batch,) = batches(crops, size, 0, 1, self.fabric.global_rank, self.fabric.world_size)
        batch = self.augmented(batch)
        figures = self.network.figures(self.network(*self.network.inputs(batch.image, batch.seed, batch.present)))
        own = torch.stack([figures[name] for name in self.network.columns])
        means: Any = self.fabric.all_reduce(own, reduce_op="mean")
        return dict(zip(self.network.columns, means.tolist(), strict=True))

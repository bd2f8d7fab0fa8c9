"""What a pre-training step computes, and how it is validated: hidden parts predicted, or two views matched.

Both follow from the seed: masks from the number of the step, views from the numbers of the crops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from voxmim.crops import Batch, CropPlan, Crops, batches, channels_of, middle_start, read_crop, show
from voxmim.pretext.assemble import MaskedPretext
from voxmim.pretext.mae import ERRORS, MAEOutput, counted_in
from voxmim.pretext.masking import draw_masks, holds_body
from voxmim.pretext.simclr import SimCLR
from voxmim.settings import Recipe
from voxmim.store import Case, Store

Prepare = Callable[[Batch], Batch]


def step_masks(recipe: Recipe, batch: int, step: int, body: Tensor | None = None) -> Tensor:
    """(batch, N) the masks of a whole step, over all processes; they follow from the seed and the step.

    Masks on the body depend on the crops too: `body` (batch, U) comes from `holds_body`. A crop's mask follows from its
    own row alone, so that a process need not know the rows of the others.
    """
    assert recipe.crop is not None
    generator = torch.Generator().manual_seed(recipe.seed * 7_368_787 + step)
    return draw_masks(recipe.mask, recipe.encoder_settings.patch, recipe.crop, batch, generator, body)


class Masked:
    """MAE and SimMIM. Validation: the middle crop of each case, always under the same mask, in all its channels.

    Where channels are seen one at a time, the first case shows its first one, the second its second, and so on.

    Beside its loss stands the best that painting each crop in one grey value could reach: what has learned nothing
    stays there.
    """

    columns = ("val_loss", "val_constant")
    crops = 1  # that a sample of the batch takes

    def __init__(self, network: MaskedPretext, store: Store, cases: Sequence[Case], plan: CropPlan, recipe: Recipe):
        self._network, self._store, self._cases, self._plan, self._recipe = network, store, cases, plan, recipe
        self._constant: float | None = None

    def loss(self, fabric: Fabric, wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        """The loss of a part of a step's crops, whichever process computes it."""
        whole = self._recipe.pretrain.batch
        mine = [number % whole for number in batch.numbers]
        body = None
        if self._recipe.mask.kind == "body":
            own = self._body(batch.image)
            body = own.new_zeros(whole, own.shape[1])
            body[mine] = own
        masks = step_masks(self._recipe, whole, step, body)[mine]
        return wrapped(batch.image, masks, present=_unless_all(batch.present)).loss

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """The mean loss over the cases, and that of one grey value a crop."""
        total, constant = 0.0, 0.0
        masks = self._fixed_masks()
        with torch.no_grad(), fabric.autocast():
            for index, mask in enumerate(masks):
                image, present = self._middle(index)
                output = self._network(fabric.to_device(image), mask[None], present=_unless_all(present))
                total += float(output.loss)
                if self._constant is None:
                    constant += constant_loss(output, self._recipe.pretext_settings.loss)  # type: ignore[union-attr]
        if self._constant is None:
            self._constant = constant / len(self._cases)
        return {"val_loss": total / len(self._cases), "val_constant": self._constant}

    def _fixed_masks(self) -> Tensor:
        count = len(self._cases)
        bodies = [self._body(self._middle(i)[0]) for i in range(count)] if self._recipe.mask.kind == "body" else None
        return step_masks(self._recipe, count, -1, None if bodies is None else torch.cat(bodies))

    def _middle(self, index: int) -> tuple[Tensor, Tensor]:
        """The middle crop (1, C, X, Y, Z) of a case, and its channels (1, C) that are present."""
        case = self._cases[index]
        image, _ = read_crop(self._store, case, middle_start(case.shape, self._plan.size), self._plan)
        shown = channels_of(case, len(image))
        if self._plan.channels == "one":
            known = shown.nonzero().flatten()
            shown = torch.arange(len(image)) == known[index % len(known)]
        image, present = show(image, shown, self._plan)
        return image[None], present[None]

    def _body(self, image: Tensor) -> Tensor:
        unit = self._recipe.mask_unit
        assert unit is not None
        return holds_body(image, unit).cpu()


def constant_loss(output: MAEOutput, loss: str) -> float:
    """The least loss that one value for all hidden voxels of a crop could have, known only afterwards."""
    hidden = output.target[counted_in(output.mask, output.present, output.target.shape[-1])]
    best = hidden.mean() if loss == "l2" else hidden.median()
    return float(ERRORS[loss](best.expand_as(hidden), hidden))


def _unless_all(present: Tensor) -> Tensor | None:
    """None where every channel is present, which a loss need not weigh."""
    return None if present.all() else present


class Contrastive:
    """SimCLR. Validation: one batch of pairs from the validation cases, always the same views."""

    columns = ("val_loss", "val_spread", "val_accuracy")
    crops = 2

    def __init__(
        self, network: SimCLR, store: Store, cases: Sequence[Case], plan: CropPlan, recipe: Recipe, augmented: Prepare
    ):
        self._network, self._store, self._cases, self._recipe = network, store, cases, recipe
        self._plan, self._augmented = replace(plan, crops_per_scan=1), augmented

    def loss(self, fabric: Fabric, wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        """The loss of this process's pairs; its crops come in pairs, one after the other."""
        return wrapped(batch.image[0::2], batch.image[1::2]).loss

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """Loss, spread and accuracy, over all processes: each brings its share of the batch."""
        crops, size = Crops(self._store, self._cases, self._plan), 2 * self._recipe.pretrain.batch
        (batch,) = batches(crops, size, 0, 1, fabric.global_rank, fabric.world_size)
        image = self._augmented(batch).image
        with torch.no_grad(), fabric.autocast():
            output = self._network(image[0::2], image[1::2])
        figures = torch.stack([output.loss, output.spread, output.accuracy])
        reduced = fabric.all_reduce(figures, reduce_op="mean")
        return dict(zip(self.columns, reduced.tolist(), strict=True))  # type: ignore[union-attr]

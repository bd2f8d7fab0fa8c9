"""What a pre-training step computes, and how it is validated: hidden parts predicted, or two views matched.

Both follow from the seed: masks from the number of the step, views from the numbers of the crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from voxmim.pretext.assemble import MaskedPretext
from voxmim.pretext.mae import ERRORS, MAEOutput, counted_in
from voxmim.pretext.masking import draw_masks, holds_body
from voxmim.pretext.simclr import SimCLR
from voxmim.settings import Recipe
from voxmim.store.crops import Batch, CropPlan, Crops, batches, channels_of, middle_start, read_crop, show
from voxmim.store.format import Case, Store
from voxmim.training.damage import Damage

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

    def __init__(
        self,
        network: MaskedPretext,
        store: Store,
        cases: Sequence[Case],
        plan: CropPlan,
        recipe: Recipe,
        damage: Damage | None = None,
    ):
        self._network, self._store, self._cases, self._plan, self._recipe = network, store, cases, plan, recipe
        self._damage = damage or Damage()
        self._constants: dict[str, float] = {}

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
        """The mean loss over the cases, and that of one grey value a crop.

        Each case's mask is its own, so that those of the others stay where one cannot be read any more.
        """
        losses: dict[str, float] = {}
        masks = self._fixed_masks()
        with torch.no_grad(), fabric.autocast():
            for place, case, (image, present) in self._middles():
                output = self._network(fabric.to_device(image), masks[place][None], present=_unless_all(present))
                losses[case.name] = float(output.loss)
                if case.name not in self._constants:
                    loss = self._recipe.pretext_settings.loss  # type: ignore[union-attr]
                    self._constants[case.name] = constant_loss(output, loss)
        seen = max(1, len(losses))
        return {
            "val_loss": sum(losses.values()) / seen,
            "val_constant": sum(self._constants[name] for name in losses) / seen,
        }

    def _fixed_masks(self) -> Tensor:
        count, body = len(self._cases), None
        if self._recipe.mask.kind == "body":
            for place, _, (image, _) in self._middles():
                own = self._body(image)[0]
                body = own.new_zeros(count, len(own)) if body is None else body
                body[place] = own
        return step_masks(self._recipe, count, -1, body)

    def _middles(self) -> Iterator[tuple[int, Case, tuple[Tensor, Tensor]]]:
        """Place, case and middle crop of every validation case that can be read."""
        places = {case.name: place for place, case in enumerate(self._cases)}
        return self._damage.readable(self._cases, lambda case: self._middle(case, places[case.name]))

    def _middle(self, case: Case, place: int) -> tuple[Tensor, Tensor]:
        """The middle crop (1, C, X, Y, Z) of a case, and its channels (1, C) that are present."""
        image, _ = read_crop(self._store, case, middle_start(case.shape, self._plan.size), self._plan)
        shown = channels_of(case, len(image))
        if self._plan.channels == "one":
            known = shown.nonzero().flatten()
            shown = torch.arange(len(image)) == known[place % len(known)]
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
        self,
        network: SimCLR,
        store: Store,
        cases: Sequence[Case],
        plan: CropPlan,
        recipe: Recipe,
        augmented: Prepare,
        damage: Damage,
    ):
        self._network, self._store, self._cases, self._recipe = network, store, cases, recipe
        self._plan, self._augmented, self._damage = replace(plan, crops_per_scan=1), augmented, damage

    def loss(self, fabric: Fabric, wrapped: nn.Module, batch: Batch, step: int) -> Tensor:
        """The loss of this process's pairs; its crops come in pairs, one after the other."""
        return wrapped(batch.image[0::2], batch.image[1::2]).loss

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """Loss, spread and accuracy, over all processes: each brings its share of the batch."""
        crops, size = Crops(self._store, self._cases, self._plan, self._damage.found), 2 * self._recipe.pretrain.batch
        (batch,) = batches(crops, size, 0, 1, fabric.global_rank, fabric.world_size)
        image = self._augmented(batch).image
        with torch.no_grad(), fabric.autocast():
            output = self._network(image[0::2], image[1::2])
        figures = torch.stack([output.loss, output.spread, output.accuracy])
        reduced = fabric.all_reduce(figures, reduce_op="mean")
        return dict(zip(self.columns, reduced.tolist(), strict=True))  # type: ignore[union-attr]

"""What a segmentor tells apart: labels, of which a voxel has one, or regions, of which it may lie in several.

Regions are unions of labels, such as the whole tumour of BraTS, its core, and what enhances of it. The network says of
each region on its own how likely a voxel lies in it. Everything after the network is a label map again: a label is the
more likely the better it agrees with all that is said of the regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxmim.store.format import Store

_SURE = 1e-6  # nearer than this to 0 or 1, no region's probability is believed


@dataclass(frozen=True)
class Structures:
    """Either labels that exclude each other, or regions that may overlap.

    Attributes:
        labels: name of each label value, background left out.
        regions: name of each region to the label values that it is the union of; empty where labels are told apart.
    """

    labels: dict[int, str]
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of_store(cls, store: Store) -> Structures:
        """Those that a store's data set declares."""
        return cls(store.labels, store.regions)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Structures:
        """Those of a segmentor's weights, as `metadata` put them there."""
        labels = {int(value): str(name) for value, name in metadata["labels"].items()}
        return cls(labels, {name: tuple(values) for name, values in metadata.get("regions", {}).items()})

    def metadata(self) -> dict[str, Any]:
        """What a weights file tells of them."""
        return {
            "labels": {str(value): name for value, name in self.labels.items()},
            "regions": {name: list(values) for name, values in self.regions.items()},
        }

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """The label values that make up each structure that is scored, by its name."""
        return self.regions or {name: (value,) for value, name in self.labels.items()}

    @property
    def outputs(self) -> int:
        """How many channels the network gives: one for each label and the background, or one for each region."""
        return len(self.regions) or max(self.labels) + 1

    def activate(self, logits: Tensor) -> Tensor:
        """(B, K, ...) probabilities from the network's logits: of labels in all 1, of each region on its own."""
        return logits.sigmoid() if self.regions else logits.softmax(dim=1)

    def masks(self, label: Tensor) -> Tensor:
        """(B, R, X, Y, Z) float32, 1 in each region, from label values (B, 1, X, Y, Z)."""
        regions = [torch.isin(label, torch.tensor(values, device=label.device)) for values in self.regions.values()]
        return torch.cat(regions, dim=1).float()

    def label_shares(self, probabilities: np.ndarray) -> np.ndarray:
        """How likely each label value is, so that the likeliest ones make a label map.

        Labels have their own probabilities. Of regions, a label's share is the product over all of them: of the
        region's probability where the label belongs to it, and else of what is left to 1; background belongs to none.
        The shares are scaled to 1 in all. So a voxel always gets a label that there is, even if what is said of the
        regions agrees with none; and where it does agree with one, as for regions within each other whose
        probabilities fall from the outer to the inner, that is the label which each region over 0.5 says. Of labels
        that belong to the same regions, the lowest stands for all.

        Args:
            probabilities: (K, X, Y, Z) float32 as `activate` gives them.

        Returns:
            (largest label value + 1, X, Y, Z) float32, background first; 0 for values that there are not.
        """
        if not self.regions:
            return probabilities
        odds = torch.from_numpy(probabilities).logit(_SURE)
        # The product, divided by that of the background, is the product of the odds of the label's own regions.
        shares = torch.full((max(self.labels) + 1, *odds.shape[1:]), -torch.inf)
        taken = set()
        for value in [0, *sorted(self.labels)]:
            member = tuple(value in values for values in self.regions.values())
            if member not in taken:
                shares[value] = odds[list(member)].sum(0)
                taken.add(member)
        return shares.softmax(dim=0).numpy()

"""The structures that a segmentor distinguishes: labels (one per voxel) or regions (which may overlap).

The network has one output for background and one per label, or one per region, numbered consecutively whatever the
label values are. Predicted label maps have the values of the data set. Only labels in training cases are learned.

Some voxels are not annotated (`ignore`), and in some cases only some labels are, so that background there may be any of
the others. Losses and metrics leave out what is not known.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from voxmim.errors import StoreError
from voxmim.sources.source import ignored_value
from voxmim.store.format import Case, Store
from voxmim.text import counted
from voxmim.weights.head import BACKGROUND


@dataclass(frozen=True)
class Structures:
    """Either labels that exclude each other, or regions (unions of labels) that may overlap."""

    labels: dict[int, str]  # name of each label value, without background
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)  # label values by name; empty without regions
    values: tuple[int, ...] = ()  # the label value of each output, background first; unused with regions
    unseen: dict[int, str] = field(default_factory=dict)  # labels of the data set that are in no training case
    ignore: int | None = None  # label value of voxels that nobody annotated, if there is one

    @classmethod
    def of_store(cls, store: Store, cases: Sequence[Case], known: Collection[str] = ()) -> Self:
        """The structures in cases of a store, and those whose labels have `known` names.

        Raises:
            StoreError: there is no label in the cases.
        """
        ignore = ignored_value(store.labels)
        present = {value for case in cases for value, count in case.counts.items() if count > 0} - {ignore}
        present |= {value for value, name in store.labels.items() if name.casefold() in map(str.casefold, known)}
        labels = {value: name for value, name in store.labels.items() if value in present}
        if not labels:
            raise StoreError(
                f"{store.path}: the label maps of {counted(len(cases), 'training case')} are all empty; look at what "
                "'voxmim inspect' says of the label files."
            )
        unseen = {value: name for value, name in store.labels.items() if value not in {*present, ignore}}
        regions = {name: tuple(v for v in values if v in labels) for name, values in store.regions.items()}
        regions = {name: values for name, values in regions.items() if values}
        return cls(labels, regions, (0, *sorted(labels)), unseen, ignore)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """From the metadata of a segmentor's weights."""
        labels = {int(value): str(name) for value, name in metadata["labels"].items()}
        regions = {name: tuple(values) for name, values in metadata.get("regions", {}).items()}
        values = metadata.get(
            "values", range(max(labels) + 1)
        )  # version 0.1: an output for each value up to the largest
        unseen = {int(value): str(name) for value, name in metadata.get("unseen", {}).items()}
        return cls(labels, regions, tuple(values), unseen)

    def metadata(self) -> dict[str, Any]:
        return {
            "labels": {str(value): name for value, name in self.labels.items()},
            "regions": {name: list(values) for name, values in self.regions.items()},
            "values": list(self.values),
            "unseen": {str(value): name for value, name in self.unseen.items()},
        }

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """The label values of each scored structure by name."""
        return self.regions or {name: (value,) for value, name in self.labels.items()}

    def values_of(self, names: Collection[str]) -> list[int]:
        """The values of the labels with these names."""
        return [value for value, name in self.labels.items() if name in names]

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        return list(self.regions) or [BACKGROUND, *(self.labels.get(v, f"label {v}") for v in self.values[1:])]

    def activate(self, logits: Tensor) -> Tensor:
        """(B, K, ...) probabilities from logits: a softmax over labels, a sigmoid per region."""
        return logits.sigmoid() if self.regions else logits.softmax(dim=1)

    def targets(self, label: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) int64 output indices of label values; values that are not learned are background."""
        table = torch.zeros(256, dtype=torch.int64, device=label.device)
        for output, value in enumerate(self.values):
            table[value] = output
        return table[label]

    def masks(self, label: Tensor) -> Tensor:
        """(B, R, X, Y, Z) float32 masks of the regions from label values (B, 1, X, Y, Z)."""
        regions = [torch.isin(label, torch.tensor(values, device=label.device)) for values in self.regions.values()]
        return torch.cat(regions, dim=1).float()

    def confident(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Label values (B, 1, X, Y, Z) int64 from logits (B, K, ...), and a mask of those that reach the threshold.

        The threshold is of the label's probability; with regions, each must reach it, inside or outside.
        """
        probabilities = self.activate(logits)
        if self.regions:
            decided = [self.decide(crop) for crop in probabilities.cpu().numpy()]
            label = torch.from_numpy(np.stack(decided)[:, None].astype(np.int64)).to(logits.device)
            sure = torch.maximum(probabilities, 1 - probabilities).amin(1, keepdim=True)
            return label, sure >= threshold
        sure, output = probabilities.max(dim=1, keepdim=True)
        return torch.tensor(self.values, device=logits.device)[output], sure >= threshold

    def parts_of(self, annotated: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
        """The structures that are known in a case in which only these label values were annotated (None: all)."""
        return {name: values for name, values in self.parts.items() if annotated is None or {*annotated} >= {*values}}

    def unknown(self, annotated: Sequence[int] | None) -> list[bool]:
        """For each output, whether it is unknown in such a case."""
        known = self.parts_of(annotated)
        if self.regions:
            return [name not in known for name in self.regions]
        return [False, *(self.labels[value] not in known for value in self.values[1:])]

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """(X, Y, Z) uint8 label map from the probabilities (K, X, Y, Z) of the outputs.

        Without regions, each voxel gets its most probable label. With regions, each region is thresholded at 0.5, and a
        voxel gets the label whose regions are all positive; if there are several, the one in most regions (then the
        lowest value); if there is none, background. So an inner region counts only inside its outer regions.
        """
        if not self.regions:
            output = torch.from_numpy(probabilities).argmax(dim=0)  # fast in any memory layout, unlike numpy's
            return np.asarray(self.values, dtype=np.uint8)[output.numpy()]
        positive = probabilities > 0.5
        result = np.zeros(probabilities.shape[1:], dtype=np.uint8)
        for value, regions in self.members:
            result[positive[list(regions)].all(axis=0)] = value
        return result

    @cached_property
    def members(self) -> list[tuple[int, tuple[int, ...]]]:
        """Label values with the indices of their regions, sorted by the number of regions, then by falling value."""
        regions = list(self.regions.values())
        pairs = [(value, tuple(i for i, values in enumerate(regions) if value in values)) for value in self.labels]
        return sorted((pair for pair in pairs if pair[1]), key=lambda pair: (len(pair[1]), -pair[0]))

    def match(self, labels: Mapping[int, str], where: Path) -> tuple[np.ndarray, dict[str, tuple[int, ...]], list[str]]:
        """Match the labels of the data set `where` with the segmentor's by name.

        They are matched by value if either side has generic names (``label 1``).

        Returns:
            a table (256,) uint8 from the data set's label values to the segmentor's; the structures that can be scored;
            the names of the data set's labels that the segmentor did not learn.

        Raises:
            StoreError: the segmentor knows none of the labels.
        """
        labels = {value: name for value, name in labels.items() if value != ignored_value(labels)}
        own = {name.casefold(): value for value, name in self.labels.items()}
        if not labels or _unnamed(labels) or _unnamed(self.labels):
            same = {value: value for value in labels or self.labels if value in self.labels}
        else:
            same = {value: own[name.casefold()] for value, name in labels.items() if name.casefold() in own}
        if not same:
            raise StoreError(
                f"{where}: none of its labels ({', '.join(labels.values())}) is one that the segmentor knows "
                f"({', '.join(self.labels.values())}); give data with the same label names."
            )
        table = np.zeros(256, dtype=np.uint8)
        table[list(same)] = list(same.values())
        parts = self.parts_of(list(same.values()))
        return table, parts, [name for value, name in labels.items() if value not in same]


def _unnamed(labels: Mapping[int, str]) -> bool:
    return all(name == f"label {value}" for value, name in labels.items())

"""What a segmentor distinguishes: labels, of which a voxel has one, or regions, of which it may lie in several.

The outputs of the network are consecutive, whatever the label values are: background and one per label, or one per
region. Label maps hold the values of the data set again. Only labels that the training cases hold are learned.

Some voxels were annotated by nobody (`ignore`), and in some cases only some of the labels were: what looks like
background there may be any of the others. Losses and metrics leave out what is not known.
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
from voxmim.weights.onward import BACKGROUND


@dataclass(frozen=True)
class Structures:
    """Either labels that exclude each other, or regions (unions of labels) that may overlap."""

    labels: dict[int, str]  # name of each label value, background left out
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)  # label values by name; empty with labels only
    values: tuple[int, ...] = ()  # the label value of each output, background first; unused with regions
    unseen: dict[int, str] = field(default_factory=dict)  # that the data set lists and no training case holds
    ignore: int | None = None  # label value of the voxels that nobody annotated, if there is one

    @classmethod
    def of_store(cls, store: Store, cases: Sequence[Case], known: Collection[str] = ()) -> Self:
        """Those that can be learned from cases of a store; labels with these `known` names need not be in any.

        Raises:
            StoreError: none of the cases holds a label.
        """
        ignore = ignored_value(store.labels)
        held = {value for case in cases for value, count in case.counts.items() if count > 0} - {ignore}
        held |= {value for value, name in store.labels.items() if name.casefold() in map(str.casefold, known)}
        labels = {value: name for value, name in store.labels.items() if value in held}
        if not labels:
            raise StoreError(
                f"{store.path}: the label maps of all {len(cases)} training cases are empty; look at what "
                "'voxmim inspect' says of the label files."
            )
        learned = {name: tuple(v for v in values if v in labels) for name, values in store.regions.items()}
        unseen = {value: name for value, name in store.labels.items() if value not in {*held, ignore}}
        regions = {name: values for name, values in learned.items() if values}
        return cls(labels, regions, (0, *sorted(labels)), unseen, ignore)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Those of a segmentor's weights, as `metadata` put them there."""
        labels = {int(value): str(name) for value, name in metadata["labels"].items()}
        regions = {name: tuple(values) for name, values in metadata.get("regions", {}).items()}
        values = metadata.get("values", range(max(labels) + 1))  # version 0.1 had an output for every value up to there
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
        """The label values of each structure that is scored, by its name."""
        return self.regions or {name: (value,) for value, name in self.labels.items()}

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        return list(self.regions) or [BACKGROUND, *(self.labels.get(v, f"label {v}") for v in self.values[1:])]

    def activate(self, logits: Tensor) -> Tensor:
        """(B, K, ...) probabilities from logits: of labels summing to 1, of each region by itself."""
        return logits.sigmoid() if self.regions else logits.softmax(dim=1)

    def targets(self, label: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) int64, the output of each label value; values that are not learned are background."""
        table = torch.zeros(256, dtype=torch.int64, device=label.device)
        for output, value in enumerate(self.values):
            table[value] = output
        return table[label]

    def masks(self, label: Tensor) -> Tensor:
        """(B, R, X, Y, Z) float32, 1 in each region, from label values (B, 1, X, Y, Z)."""
        regions = [torch.isin(label, torch.tensor(values, device=label.device)) for values in self.regions.values()]
        return torch.cat(regions, dim=1).float()

    def confident(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Label values (B, 1, X, Y, Z) int64 from logits (B, K, ...), and where (bool) they are as probable as this.

        Of regions, all of them must be decided with this probability, inside or outside.
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
        """The structures that are known in a case of which only these label values were annotated (None: all)."""
        return {name: values for name, values in self.parts.items() if annotated is None or {*annotated} >= {*values}}

    def unknown(self, annotated: Sequence[int] | None) -> list[bool]:
        """Of each output, whether nothing is known of it in such a case."""
        known = self.parts_of(annotated)
        if self.regions:
            return [name not in known for name in self.regions]
        return [False, *(self.labels[value] not in known for value in self.values[1:])]

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """(X, Y, Z) uint8 label map from the probabilities (K, X, Y, Z) of the outputs.

        Of labels, the most probable one. Of regions, each is decided by itself at 0.5; a voxel gets the label whose
        regions are all positive there, and of several such labels the one in most regions (then the lowest value). So
        a region inside another one counts only where the outer one is positive too, and background is left where no
        label agrees.
        """
        if not self.regions:
            most_likely = torch.from_numpy(probabilities).argmax(dim=0)  # fast in any memory layout
            return np.asarray(self.values, dtype=np.uint8)[most_likely.numpy()]
        positive = probabilities > 0.5
        result = np.zeros(probabilities.shape[1:], dtype=np.uint8)
        for value, member in self.members:
            result[positive[list(member)].all(axis=0)] = value
        return result

    @cached_property
    def members(self) -> list[tuple[int, tuple[int, ...]]]:
        """Each label with the indices of its regions; those in fewest regions, and of highest value, come first."""
        regions = list(self.regions.values())
        found = [(value, tuple(at for at, values in enumerate(regions) if value in values)) for value in self.labels]
        return sorted((pair for pair in found if pair[1]), key=lambda pair: (len(pair[1]), -pair[0]))

    def match(self, labels: Mapping[int, str], where: Path) -> tuple[np.ndarray, dict[str, tuple[int, ...]], list[str]]:
        """How the label maps of a data set are compared with those of the segmentor: by the names of the labels.

        Where one side has no names (``label 1``), values decide. `labels` are those of the data set `where`.

        Returns:
            a table (256,) uint8 from the data set's label values to the segmentor's; the structures that can be scored;
            the names of labels of the data set that the segmentor never learned.

        Raises:
            StoreError: no label has a name that the segmentor knows.
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
        known = set(same.values())
        parts = {name: values for name, values in self.parts.items() if known.issuperset(values)}
        return table, parts, [name for value, name in labels.items() if value not in same]


def _unnamed(labels: Mapping[int, str]) -> bool:
    return all(name == f"label {value}" for value, name in labels.items())

"""The position-only prior: a prediction from the mean training label map alone, without the image.

It is the baseline of every Dice: a network that scores no higher has learned where organs are, not how they look.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.nn import functional

from voxmim.errors import RunError
from voxmim.files import atomic_write

PRIOR = "prior.npz"  # its name in a run folder
GRID = 64
_FOLDS = 5
_FACTORS = tuple(2.0 ** (step / 2) for step in range(13))  # 1 to 64


@dataclass(frozen=True)
class PositionPrior:
    """The frequency of each label at each position of the foreground box, over the training cases."""

    probability: np.ndarray  # (L, G, G, G) float16 fraction of the training cases with each label at each position
    labels: tuple[int, ...]  # the L label values
    factor: float  # multiplies these fractions before they are compared with the background's

    @classmethod
    def fit(cls, label_maps: Iterable[np.ndarray], labels: Iterable[int], grid: int = GRID) -> Self:
        """Average the training label maps on a common grid.

        Masks are average-pooled to the grid where they are finer, and interpolated linearly where they are coarser.
        A small organ that varies is at no position in half of the cases, so background would always be the most
        frequent label there. Hence the fractions of all labels are multiplied by one factor, from 1 to 64 in steps of
        the square root of 2: the one with the highest mean Dice in a 5-fold cross-validation (1 for a single case).

        Args:
            label_maps: (X, Y, Z) uint8, RAS, cropped to their foreground box; read once.
            labels: the label values.
            grid: G, the cells of the common grid along each axis.

        Raises:
            ValueError: there is no label map, or no label.
        """
        values = tuple(value for value in labels if value != 0)
        sums = torch.zeros(_FOLDS, len(values), grid, grid, grid)
        references: list[torch.Tensor] = []
        for label_map in label_maps:
            tensor = torch.from_numpy(np.array(label_map, dtype=np.uint8))
            for index, value in enumerate(values):
                sums[len(references) % _FOLDS, index] += _resized((tensor == value).float(), (grid, grid, grid))
            sampled = functional.interpolate(tensor[None, None].float(), size=(grid, grid, grid), mode="nearest-exact")
            references.append(sampled[0, 0].to(torch.uint8))
        if not references or not values:
            raise ValueError(
                f"a position-only prior needs label maps and labels, but got {len(references)} and {len(values)}."
            )
        factor = _best_factor(sums, references, values) if len(references) > 1 else 1.0
        return cls((sums.sum(0) / len(references)).half().numpy(), values, factor)

    def predict(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The prior's label map for a foreground box of `shape` voxels: (X, Y, Z) uint8."""
        # One label at a time: all fractions at full size would take gigabytes.
        fractions = (_resized(torch.from_numpy(fraction).float(), shape) for fraction in self.probability)
        return _decide(fractions, self.labels, self.factor, shape).numpy()

    def save(self, path: Path | str) -> None:
        """Write an `.npz`; the file appears whole or not at all."""
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probability=self.probability, labels=self.labels, factor=self.factor)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            RunError: the file is missing, damaged, or not a prior.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                labels = tuple(int(value) for value in file["labels"])
                return cls(file["probability"], labels, float(file["factor"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{path}: cannot be read as a position-only prior ({type(error).__name__}); fit and save it again."
            ) from None


def _resized(fraction: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Resize an (X, Y, Z) float map: average pooling where it is finer, linear interpolation where it is coarser."""
    x, y, z = (min(have, want) for have, want in zip(fraction.shape, shape, strict=True))
    pooled = functional.adaptive_avg_pool3d(fraction[None, None], (x, y, z))
    return functional.interpolate(pooled, size=shape, mode="trilinear", align_corners=False)[0, 0]


def _decide(
    fractions: Iterable[torch.Tensor], labels: tuple[int, ...], factor: float, shape: tuple[int, int, int]
) -> torch.Tensor:
    """The label with the largest fraction at each voxel, or 0 if `factor` times that is not above the background's."""
    decision = torch.zeros(shape, dtype=torch.uint8)
    largest, background = torch.zeros(shape), torch.ones(shape)
    for value, fraction in zip(labels, fractions, strict=True):
        decision[fraction > largest] = value
        torch.maximum(largest, fraction, out=largest)
        background -= fraction
    decision[largest * factor <= background] = 0
    return decision


def _best_factor(sums: torch.Tensor, references: list[torch.Tensor], labels: tuple[int, ...]) -> float:
    """The factor with the highest mean Dice in a cross-validation.

    `sums` (folds, L, G, G, G) are the summed masks of each fold; case i belongs to fold i modulo the folds.
    """
    shape = (sums.shape[2], sums.shape[3], sums.shape[4])
    total = sums.sum(0)
    dice: list[list[float]] = [[] for _ in _FACTORS]
    for fold in range(min(len(sums), len(references))):
        left_out = references[fold :: len(sums)]
        others = (total - sums[fold]) / (len(references) - len(left_out))
        for index, factor in enumerate(_FACTORS):
            decision = _decide(others, labels, factor, shape)
            scores = (_mean_dice(decision, reference, labels) for reference in left_out)
            dice[index] += [score for score in scores if score is not None]
    means = [sum(scores) / len(scores) if scores else 0.0 for scores in dice]
    return _FACTORS[means.index(max(means))]


def _mean_dice(decision: torch.Tensor, reference: torch.Tensor, labels: tuple[int, ...]) -> float | None:
    """Mean Dice over the labels that are in either map; None if there is none."""
    size = max(labels) + 1
    pairs = torch.bincount((decision.long() * size + reference).flatten(), minlength=size * size).view(size, size)
    sizes = pairs.sum(0) + pairs.sum(1)
    chosen = [value for value in labels if sizes[value] > 0]
    return float((2 * pairs.diagonal()[chosen] / sizes[chosen]).mean()) if chosen else None

"""What is noted of a scan when it is read, so that it can be judged beside others without being read again."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

PERCENTILES = (0.0, 0.5, 25.0, 50.0, 75.0, 99.5, 100.0)
COARSE = (6, 6, 6)


class LabelFacts(NamedTuple):
    """One label of a case: its volume in mm3, and its centre as shares of the scan's extent along R, A, S."""

    volume: float
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class Facts:
    """One scan in some hundred bytes. Axes run right, anterior, superior.

    Attributes:
        shape: voxels.
        spacing: voxel size in mm.
        orientation: of the file's own axes, such as ``LPS``.
        whole: whether all values are whole numbers.
        percentiles: of each channel, at `PERCENTILES`; the first and the last are its ends.
        overview: the first channel on a grid of 6 x 6 x 6, as 0..255, written in base 64; see `coarse`.
        content: of all voxels, whatever their file's format, type and axes.
        labels: by value, background left out; empty without a label map.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    whole: bool
    percentiles: tuple[tuple[float, ...], ...]
    overview: str
    content: str
    labels: dict[int, LabelFacts] = field(default_factory=dict)

    def coarse(self) -> np.ndarray:
        """(6, 6, 6) float: the first channel, seen from afar."""
        return np.frombuffer(b64decode(self.overview), np.uint8).reshape(COARSE).astype(float)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """The inverse of ``dataclasses.asdict``, also after a way through JSON."""
        labels = {int(value): LabelFacts(volume, tuple(centre)) for value, (volume, centre) in values["labels"].items()}
        return cls(
            tuple(values["shape"]),
            tuple(values["spacing"]),
            values["orientation"],
            values["whole"],
            tuple(map(tuple, values["percentiles"])),
            values["overview"],
            values["content"],
            labels,
        )

"""The metrics of a predicted label map; tables, JSON, CSV, pages and studies read the dict `METRICS`.

Surfaces are defined as in MONAI: a label's voxels that share a face with a voxel of another label or with the outside
of the image (the label minus its binary erosion by one voxel, 6 neighbours). So an organ cut off by the field of view
has a surface there. Distances are between centres of surface voxels, in mm.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Added to the tolerance: voxel sizes from a float32 affine are off in the seventh digit, which must not decide whether
# a distance of exactly the tolerance counts.
_ROUNDING_MM = 1e-4


@dataclass(frozen=True)
class Masks:
    """One structure in two label maps; neither mask is empty."""

    prediction: np.ndarray  # (X, Y, Z) bool
    reference: np.ndarray  # (X, Y, Z) bool
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)  # voxel size in mm along X, Y, Z
    tolerance_mm: float = 2.0  # how far apart two surfaces may lie and still agree


@dataclass(frozen=True)
class Metric:
    """One metric."""

    function: Callable[..., Any]  # takes the `Masks` of a structure in one case; of scans, the targets and predictions
    title: str  # in tables; ``{tolerance_mm}`` is filled in
    unit: str  # such as ``mm``, or empty
    digits: int  # printed after the decimal point
    higher_is_better: bool
    absent: float | None = 0.0  # score of a structure that only one label map has; None: the scan's diagonal in mm

    def heading(self, tolerance_mm: float = 2.0) -> str:
        title = self.title.format(tolerance_mm=f"{tolerance_mm:g}")
        return f"{title} ({self.unit})" if self.unit else title

    def text(self, value: float | None) -> str:
        """A value as tables show it; a dash where nothing was counted."""
        return "–" if value is None else f"{value:.{self.digits}f}"

    def interval(self, ends: Sequence[float] | None) -> str:
        """An interval (low, high) as tables show it."""
        return "–" if ends is None else f"{self.text(ends[0])} to {self.text(ends[1])}"


def dice(masks: Masks) -> float:
    """Overlap of the volumes, 0 to 1 (Dice, Ecology 26, 1945)."""
    both = np.count_nonzero(masks.prediction & masks.reference)
    return float(2 * both / (np.count_nonzero(masks.prediction) + np.count_nonzero(masks.reference)))


def hd95(masks: Masks) -> float:
    """The larger of the two directed 95th percentiles (linear between ranks) of surface distances, in mm."""
    from monai.metrics import compute_hausdorff_distance  # MONAI takes seconds to import

    return _by_monai(compute_hausdorff_distance, masks, percentile=95)


def surface_dice(masks: Masks) -> float:
    """Fraction of both surfaces' voxels within the tolerance of the other surface (arXiv 1809.04430), 0 to 1."""
    from monai.metrics import compute_surface_dice

    return _by_monai(compute_surface_dice, masks, class_thresholds=[masks.tolerance_mm + _ROUNDING_MM])


METRICS: dict[str, Metric] = {
    "dice": Metric(dice, "Dice", "", 3, higher_is_better=True, absent=0.0),
    "hd95_mm": Metric(hd95, "HD95", "mm", 2, higher_is_better=False, absent=None),
    "nsd": Metric(surface_dice, "NSD ({tolerance_mm} mm)", "", 3, higher_is_better=True, absent=0.0),
}
MAIN = "dice"  # has an interval in tables and selects the best step of a training


def headings(tolerance_mm: float = 2.0) -> list[str]:
    """The column headings of `cells`: each metric, the main one followed by its interval."""
    heads = [metric.heading(tolerance_mm) for metric in METRICS.values()]
    heads.insert(list(METRICS).index(MAIN) + 1, "95 % interval")
    return heads


def cells(scores: Mapping[str, Any]) -> list[str]:
    """The table row of one structure's scores, or of their mean, as `summarise` returns them."""
    found = [metric.text(scores.get(name)) for name, metric in METRICS.items()]
    found.insert(list(METRICS).index(MAIN) + 1, METRICS[MAIN].interval(scores["ci95"]))
    return found


def convention() -> str:
    """How structures are counted, printed under every table."""
    worst = {
        metric.title.partition(" (")[0]: "the diagonal of the scan" if metric.absent is None else f"{metric.absent:g}"
        for metric in METRICS.values()
    }
    absent = ", ".join(f"{title} {value}" for title, value in worst.items())
    return (
        "Scored per case and per label in the scan's own geometry, without background; a region is scored as one "
        "label. A label that is absent from reference and prediction is not counted; a label that only one of the "
        f"two holds scores {absent}."
    )


def _by_monai(function: Callable[..., Any], masks: Masks, **options: Any) -> float:
    pair = (torch.from_numpy(mask)[None, None] for mask in (masks.prediction, masks.reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls one of its own functions as it advises not to
        return float(function(*pair, include_background=True, spacing=masks.spacing, **options))

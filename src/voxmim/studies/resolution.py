"""Does the gain from pre-training hold at other spacings and crop sizes, also if they differ in the fine-tuning?

A coarser store is resampled from the given one. A crop has the same number of voxels at both spacings, so it costs the
same and contains more of the body at the coarser one. Results are scored in the scans' own geometry.
"""

from pathlib import Path
from typing import Any

from voxmim.pretext.build import PRETEXTS
from voxmim.recipe import fit_crop
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.store.resample import respace
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import grouped_findings, setting_in_words

COARSER = 1.5  # times the spacing
SMALLER = 2 / 3  # of a crop's side

Setting = tuple[Path, Triple]  # store, crop


def arms(request: Request) -> list[Arm]:
    """A group for each spacing and for a smaller crop: from scratch, and pre-trained at the same and other settings."""
    fine = Store(request.stores[0])
    x, y, z = (round(COARSER * size, 3) for size in fine.preparation.spacing)
    coarse = respace(fine, request.out / "stores" / f"{fine.digest()}-{x:g}-{y:g}-{z:g}mm", (x, y, z))
    unit, shapes = request.base.crop_unit, [case.shape for case in fine.in_split("train")]
    crop = request.base.crop or fit_crop(shapes, unit, request.base.crop_voxels)
    small = _smaller(crop, unit)
    given, coarser, smaller = (fine.path, crop), (coarse.path, crop), (fine.path, small)
    starts_of = {given: [given, coarser], coarser: [coarser, given]}
    if small != crop:
        starts_of[given].append(smaller)
        starts_of[smaller] = [smaller, given]
    found = []
    for target, starts in starts_of.items():
        group: dict[str, Any] = {"store": target[0], "group": f"fine-tuned at {_words(target)}"}
        found.append(request.scratch({"crop": list(target[1])}, **group))
        found += [_pretrained(request, start, target, group) for start in starts]
    return found


def findings(comparison: Comparison) -> Findings:
    """Scores and curves for each group, and the differences within it."""
    groups = grouped(comparison.arms).values()
    pairs = [(arms[first], arm) for first in (0, 1) for arms in groups for arm in arms[first + 1 :]]
    return grouped_findings(comparison, pairs)


def _pretrained(request: Request, start: Setting, target: Setting, group: dict[str, Any]) -> Arm:
    """An arm that is pre-trained at one spacing and crop, and fine-tuned at another."""
    pretext = request.base.pretext
    arm = request.pretrained(pretext, {"crop": list(start[1])}, pretrained_on=start[0], **group)
    name = f"{PRETEXTS[pretext].title} at {_words(start)}"
    return request.scratch({"crop": list(target[1])}, name=name, pretraining=arm.pretraining, **group)


def _smaller(crop: Triple, unit: Triple) -> Triple:
    """A crop of about two thirds of each side in whole units, at least two units unless the crop has fewer."""
    x, y, z = (max(min(2 * u, c), round(SMALLER * c / u) * u) for c, u in zip(crop, unit, strict=True))
    return x, y, z


def _words(setting: Setting) -> str:
    return setting_in_words(Store(setting[0]), setting[1])


STUDY = Study("Does the gain hold at other spacings and crop sizes?", arms, findings)

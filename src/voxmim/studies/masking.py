"""How much should be hidden, and in how large pieces?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxmim.errors import RecipeError
from voxmim.pretext.build import PRETEXTS
from voxmim.report.page import Picture, Table
from voxmim.report.plots import HeatMap
from voxmim.report.run_pictures import reconstruction_pictures
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.studies.tables import (
    MISSING,
    best_of,
    best_scores,
    difference_table,
    marked,
    score_table,
    tested_in_words,
    unlearned_note,
    validation_table,
)
from voxmim.text import sizes_in_words

RATIOS = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Cut:
    """How a crop is cut: into patches, and into mask units of one or several of them."""

    patch: Triple
    unit: Triple

    @property
    def name(self) -> str:
        """Such as ``patch 4, unit 8``."""
        return f"patch {_size(self.patch)}, unit {_size(self.unit)}"


def cuts(request: Request) -> list[Cut]:
    """Patch and unit of the recipe's patch, units of twice that, and for a ViT patches of twice that too.

    Units that do not fit the recipe's crop are left out.
    """
    patch = request.base.encoder_settings.patch
    double = patch[0] * 2, patch[1] * 2, patch[2] * 2
    found = [Cut(patch, patch), Cut(patch, double)]
    if request.base.encoder == "vit" and max(double) <= 32:
        found.append(Cut(double, double))
    crop = request.base.crop
    if crop is None:
        return found
    return [cut for cut in found if crop != cut.unit and not any(c % u for c, u in zip(crop, cut.unit, strict=True))]


def arms(request: Request) -> list[Arm]:
    """For each patch, one group: from scratch, then MAE and SimMIM with each unit and each ratio.

    Raises:
        RecipeError: no way to cut the crop fits.
    """
    found: list[Arm] = []
    for cut in (known := cuts(request)):
        group: dict[str, Any] = {"group": f"patch {_size(cut.patch)}"}
        settings: dict[str, Any] = {}
        if request.base.encoder == "vit":
            settings["vit.patch"] = list(cut.patch)
        if group["group"] not in {arm.group for arm in found}:
            found.append(request.scratch(settings, name=f"from scratch, {group['group']}", **group))
        for pretext in (pretext for pretext in request.pretexts if PRETEXTS[pretext].masked):
            for ratio in RATIOS:
                own = {**settings, "mask.ratio": ratio, "mask.unit": list(cut.unit)}
                found.append(request.pretrained(pretext, own, name=_name(pretext, cut, ratio), **group))
    if not known:
        raise RecipeError(f"the crop {request.base.crop} is not a whole number of mask units, or one; change it.")
    return found


def tested(comparison: Comparison) -> Sequence[Arm]:
    """Of each pretext the arm that does best on validation cases, and the arms from scratch of the same patch."""
    best = _best(comparison)
    groups = {arm.group for arm in best}
    return [own[0] for name, own in grouped(comparison.arms).items() if name in groups or not groups] + best


def findings(comparison: Comparison) -> Findings:
    """Heat maps of Dice and of the pretext's loss, reconstructions, and the results of the best."""
    arms = list(tested(comparison))
    scratch = {arm.group: arm for arm in arms if arm.pretraining is None}
    pairs = [(scratch[arm.group], arm) for arm in arms if arm.pretraining is not None]
    return Findings(
        lead=[tested_in_words(comparison, *pair) for pair in pairs],
        tables=[
            score_table(comparison, arms),
            difference_table(comparison, pairs),
            validation_table(comparison, comparison.arms),
            _losses(comparison),
        ],
        plots=_heat_maps(comparison),
        pictures=_reconstructions(comparison),
    )


def _best(comparison: Comparison) -> list[Arm]:
    found = [best_of(comparison, own) for own in _by_pretext(comparison).values()]
    return [arm for arm in found if arm is not None]


def _by_pretext(comparison: Comparison) -> dict[str, list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        if arm.pretraining is not None:
            found.setdefault(arm.pretraining.recipe.pretext, []).append(arm)
    return found


def _loss(comparison: Comparison, arm: Arm) -> tuple[float, float] | None:
    """The last validation loss of the pretext and that of guessing, with the first seed."""
    start = arm.pretrain(comparison.seeds[0])
    rows = [] if start is None else comparison.rows(start)
    return (rows[-1]["val_loss"], rows[-1]["val_guess"]) if rows else None


def _losses(comparison: Comparison) -> Table:
    rows = []
    for arm in (arm for own in _by_pretext(comparison).values() for arm in own):
        found = _loss(comparison, arm)
        cells = [MISSING] * 3 if found is None else [*(f"{value:.3f}" for value in found), f"{found[0] / found[1]:.2f}"]
        rows.append([marked(comparison, arm), *cells])
    note = "On validation crops at the end, with the first seed. Only the ratio can be compared across rows."
    notes = [note, unlearned_note(comparison, comparison.arms)]
    return Table("Losses of the pretexts", ["arm", "loss", "guessing", "ratio"], rows, " ".join(notes).strip())


def _heat_maps(comparison: Comparison) -> list[HeatMap]:
    maps = []
    for pretext, own in _by_pretext(comparison).items():
        cells = {_cell(arm): arm for arm in own}
        names = list(dict.fromkeys(name for name, _ in cells))
        columns = [f"{ratio:g}" for ratio in RATIOS]
        dice: list[list[float | None]] = []
        ratios: list[list[float | None]] = []
        for name in names:
            tables = [best_scores(comparison, cells[name, ratio]) for ratio in RATIOS]
            losses = [_loss(comparison, cells[name, ratio]) for ratio in RATIOS]
            dice.append([None if table is None else float(table.mean()) for table in tables])
            ratios.append([loss[0] / loss[1] if loss and loss[1] else None for loss in losses])
        axes = ("mask unit", "mask ratio")
        for title, values, bar in (
            (f"{PRETEXTS[pretext].title}: Dice after fine-tuning", dice, "best Dice on validation cases"),
            (f"{PRETEXTS[pretext].title}: loss relative to guessing", ratios, "loss / loss of guessing"),
        ):
            caption = "Mean over seeds and validation cases." if values is dice else "With the first seed."
            maps.append(HeatMap(title, names, columns, values, *axes, bar, caption))
    return maps


def _reconstructions(comparison: Comparison) -> list[Picture]:
    """One case as each pretext with the recipe's patch reconstructs it, at each ratio."""
    pictures = []
    for own in _by_pretext(comparison).values():
        first = [arm for arm in own if _cell(arm)[0] == _cell(own[0])[0]]
        for arm in first:
            run = comparison.finished(arm.pretrain(comparison.seeds[0]))
            if run is not None and arm.pretraining is not None:
                picture = reconstruction_pictures(run, Store(arm.pretraining.store))[0]
                pictures.append(replace(picture, title=f"{arm.name}: {picture.title}"))
    return pictures


def _cell(arm: Arm) -> tuple[str, float]:
    assert arm.pretraining is not None
    recipe = arm.pretraining.recipe
    return Cut(recipe.encoder_settings.patch, recipe.mask.unit or recipe.encoder_settings.patch).name, recipe.mask.ratio


def _name(pretext: str, cut: Cut, ratio: float) -> str:
    return f"{PRETEXTS[pretext].title}, {cut.name}, {ratio:.0%}"


def _size(box: Triple) -> str:
    return str(box[0]) if len(set(box)) == 1 else sizes_in_words(box)


STUDY = Study("How much should be masked, and in how large units?", arms, findings, tested)

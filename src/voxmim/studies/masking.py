"""How much should be masked, and in how large units?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from voxmim.errors import RecipeError
from voxmim.networks.build import has_patch_setting
from voxmim.pretext.build import PRETEXTS
from voxmim.report.page import Picture, Table
from voxmim.report.plots import HeatMap
from voxmim.report.run_pictures import reconstruction_pictures
from voxmim.settings import Triple
from voxmim.store.format import Store
from voxmim.studies import tables
from voxmim.studies.arm import Arm, Comparison, grouped
from voxmim.studies.design import Findings, Study
from voxmim.studies.request import Request
from voxmim.text import sizes_in_words

RATIOS = (0.25, 0.5, 0.75, 0.9)
MAX_PATCH = 32  # voxels
Cut = tuple[Triple, Triple]  # patch, mask unit


def cuts(request: Request) -> list[Cut]:
    """The recipe's patch with mask units of once and twice its size, and patches twice as large if the encoder can.

    Units that do not fit the recipe's crop are left out.
    """
    patch, crop = request.base.encoder_settings.patch, request.base.crop
    double = patch[0] * 2, patch[1] * 2, patch[2] * 2
    found = [(patch, patch), (patch, double), *([(double, double)] if _takes(request, double) else [])]
    if crop is None:
        return found
    return [cut for cut in found if crop != cut[1] and not any(c % u for c, u in zip(crop, cut[1], strict=True))]


def arms(request: Request) -> list[Arm]:
    """A group for each patch: from scratch, then MAE and SimMIM with each unit and each ratio.

    Raises:
        RecipeError: no mask unit fits the crop.
    """
    found: list[Arm] = []
    for patch, unit in cuts(request):
        group, settings = {"group": f"patch {_size(patch)}"}, _patch_setting(request, patch)
        if group["group"] not in {arm.group for arm in found}:
            found.append(request.scratch(settings, name=f"from scratch, {group['group']}", **group))
        for pretext in (pretext for pretext in request.pretexts if PRETEXTS[pretext].masked):
            for ratio in RATIOS:
                masked = {**settings, "mask.ratio": ratio, "mask.unit": list(unit)}
                name = f"{PRETEXTS[pretext].title}, {_name((patch, unit))}, {ratio:.0%}"
                found.append(request.pretrained(pretext, masked, name=name, **group))
    if not found:
        raise RecipeError(f"the crop {request.base.crop} is not a whole number of mask units, or one; change it.")
    return found


def tested(comparison: Comparison) -> Sequence[Arm]:
    """The best arm of each pretext on validation cases, and the arms from scratch with the same patch."""
    best = [arm for arms in _by_pretext(comparison).values() if (arm := tables.best_of(comparison, arms)) is not None]
    groups = {arm.group for arm in best}
    return [arms[0] for name, arms in grouped(comparison.arms).items() if name in groups or not groups] + best


def findings(comparison: Comparison) -> Findings:
    """Heat maps of Dice and of the pretext's loss, reconstructions, and the results of the best arms."""
    arms = list(tested(comparison))
    scratch = {arm.group: arm for arm in arms if arm.pretraining is None}
    pairs = [(scratch[arm.group], arm) for arm in arms if arm.pretraining is not None]
    return Findings(
        lead=[tables.tested_in_words(comparison, *pair) for pair in pairs],
        tables=[
            tables.score_table(comparison, arms),
            tables.difference_table(comparison, pairs),
            tables.validation_table(comparison, comparison.arms),
            _losses(comparison),
        ],
        plots=_heat_maps(comparison),
        pictures=_reconstructions(comparison),
    )


def _takes(request: Request, patch: Triple) -> bool:
    """Whether the encoder can have this patch."""
    if not has_patch_setting(request.base.encoder_settings) or max(patch) > MAX_PATCH:
        return False
    try:
        request.recipe_of(None, _patch_setting(request, patch))
    except RecipeError:
        return False
    return True


def _patch_setting(request: Request, patch: Triple) -> dict[str, Any]:
    """The setting of a patch; none if the encoder has no such setting."""
    if not has_patch_setting(request.base.encoder_settings):
        return {}
    return {f"{request.base.encoder}.patch": list(patch)}


def _by_pretext(comparison: Comparison) -> dict[str, list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        if arm.pretraining is not None:
            found.setdefault(arm.pretraining.recipe.pretext, []).append(arm)
    return found


def _loss(comparison: Comparison, arm: Arm) -> tuple[float, float] | None:
    """The pretext's last validation loss with the first seed, and the loss of guessing."""
    start = arm.pretrain(comparison.seeds[0])
    rows = [] if start is None else comparison.rows(start)
    return (rows[-1]["val_loss"], rows[-1]["val_guess"]) if rows else None


def _losses(comparison: Comparison) -> Table:
    rows = []
    for arm in (arm for arms in _by_pretext(comparison).values() for arm in arms):
        loss, guess = _loss(comparison, arm) or (0.0, 0.0)
        cells = [f"{loss:.3f}", f"{guess:.3f}", f"{loss / guess:.2f}"] if guess else [tables.MISSING] * 3
        rows.append([tables.marked(comparison, arm), *cells])
    note = "On validation crops at the end, with the first seed. Only the ratio can be compared across rows."
    return tables.table(comparison, "Losses of the pretexts", ["arm", "loss", "guessing", "ratio"], rows, note)


def _heat_maps(comparison: Comparison) -> list[HeatMap]:
    """Dice after fine-tuning and loss relative to guessing by mask unit and ratio, for each pretext."""

    def dice(arm: Arm) -> float | None:
        scores = tables.best_scores(comparison, arm)
        return None if scores is None else float(scores.mean())

    def relative_loss(arm: Arm) -> float | None:
        loss = _loss(comparison, arm)
        return loss[0] / loss[1] if loss and loss[1] else None

    maps = []
    for pretext, arms in _by_pretext(comparison).items():
        cells = {_cell(arm): arm for arm in arms}
        names = list(dict.fromkeys(name for name, _ in cells))
        for value, title, bar, caption in (
            (dice, "Dice after fine-tuning", "best Dice on validation cases", "Mean over seeds and validation cases."),
            (relative_loss, "loss relative to guessing", "loss / loss of guessing", "With the first seed."),
        ):
            values = [[value(cells[name, ratio]) for ratio in RATIOS] for name in names]
            columns, axes = [f"{ratio:g}" for ratio in RATIOS], ("mask unit", "mask ratio")
            title = f"{PRETEXTS[pretext].title}: {title}"
            maps.append(HeatMap(title, names, columns, values, *axes, bar, caption))
    return maps


def _reconstructions(comparison: Comparison) -> list[Picture]:
    """Reconstructions of one case at each ratio, by each pretext with the recipe's patch."""
    pictures = []
    for arms in _by_pretext(comparison).values():
        for arm in (arm for arm in arms if _cell(arm)[0] == _cell(arms[0])[0]):
            run = comparison.finished(arm.pretrain(comparison.seeds[0]))
            if run is not None and arm.pretraining is not None:
                picture = reconstruction_pictures(run, Store(arm.pretraining.store))[0]
                pictures.append(replace(picture, title=f"{arm.name}: {picture.title}"))
    return pictures


def _cell(arm: Arm) -> tuple[str, float]:
    """Row and column of an arm in a heat map: patch and unit, and ratio."""
    assert arm.pretraining is not None
    recipe = arm.pretraining.recipe
    patch = recipe.encoder_settings.patch
    return _name((patch, recipe.mask.unit or patch)), recipe.mask.ratio


def _name(cut: Cut) -> str:
    """Such as ``patch 4, unit 8``."""
    return f"patch {_size(cut[0])}, unit {_size(cut[1])}"


def _size(box: Triple) -> str:
    return str(box[0]) if len(set(box)) == 1 else sizes_in_words(box)


STUDY = Study("How much should be masked, and in how large units?", arms, findings, tested)

"""Whether a pre-training learns, told from its validation in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from voxmim.settings import Recipe

SINCE = 0.25  # of the steps: before that nothing can be said
COLLAPSED = 0.1  # of the spread of projections that fill their space
BLIND = 0.97  # of the loss of one grey value a crop


def complaint(recipe: Recipe, row: Mapping[str, float]) -> str:
    """What is wrong with a pre-training after a validation, and what to try; nothing where all is well.

    Args:
        recipe: of the run.
        row: of its metrics, with ``step`` and the figures of a validation.
    """
    training = recipe.pretrain
    if row["step"] < SINCE * training.steps:
        return ""
    when = f"after {int(row['step'])} of {training.steps} steps"
    if "val_spread" in row:
        full = recipe.simclr.projection_width**-0.5
        if row["val_spread"] < COLLAPSED * full:
            return (
                f"The representation has collapsed: {when} the projections of different scans are nearly the same "
                f"(spread {row['val_spread']:.4f}; {full:.4f} would fill the space). Try a lower pretrain.lr, a larger "
                "pretrain.batch, or a higher simclr.temperature."
            )
    elif "val_constant" in row and row["val_loss"] > BLIND * row["val_constant"]:
        return (
            f"The network sees hardly anything yet: {when} its error on validation crops is {row['val_loss']:.4f}, and "
            f"painting each crop in one grey value has {row['val_constant']:.4f}. Try another pretrain.lr, more "
            "pretrain.steps, smaller patches, or a lower mask.ratio."
        )
    return ""

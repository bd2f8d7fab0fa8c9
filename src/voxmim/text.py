"""What a recipe's encoder and pretext are called in reports, and how sizes are told."""

from __future__ import annotations

from collections.abc import Iterable

from voxmim.settings import Recipe, SimCLRSettings, SwinSettings, UNetSettings, ViTSettings

PRETEXTS = {"mae": "MAE", "simmim": "SimMIM", "simclr": "SimCLR"}
_ERRORS = {"l1": "mean absolute error", "l2": "mean squared error", "smooth_l1": "mean smooth l1 error"}


def sizes_in_words(sizes: Iterable[float]) -> str:
    """A size along each axis, such as ``1 x 1 x 2.5``."""
    return " x ".join(f"{size:g}" for size in sizes)


def encoder_in_words(recipe: Recipe) -> str:
    """Such as ``ViT of width 768, depth 12, 12 heads``."""
    match recipe.encoder_settings:
        case ViTSettings() as vit:
            return f"ViT of width {vit.width}, depth {vit.depth}, {vit.heads} heads"
        case SwinSettings() as swin:
            return f"Swin of width {swin.width}, depths {_row(swin.depths)}, window {swin.window}"
        case UNetSettings() as unet:
            return f"residual U-Net of width {unet.width}, blocks {_row(unet.blocks)}"


def pieces_in_words(recipe: Recipe) -> str:
    """What a crop is cut into, such as ``patches of 16 x 16 x 16``."""
    what = "cells" if recipe.encoder == "unet" else "patches"
    return f"{what} of {sizes_in_words(recipe.encoder_settings.patch)}"


def task_in_words(recipe: Recipe) -> str:
    """What the encoder learned, as half a sentence."""
    if recipe.pretext == "simclr":
        return "learned to tell two views of a scan from the views of all others (SimCLR)"
    how = {"random": "", "block": ", in blocks", "body": ", mostly on the body"}[recipe.mask.kind]
    return (
        f"learned to predict what is hidden ({PRETEXTS[recipe.pretext]}): {recipe.mask.ratio:.0%} of each crop was "
        f"taken away{how}, and its voxels had to be given back"
    )


def loss_in_words(recipe: Recipe) -> tuple[str, str]:
    """Title and axis of the plot of a pre-training's loss."""
    settings = recipe.pretext_settings
    if isinstance(settings, SimCLRSettings):
        return "Contrastive loss", "NT-Xent"
    return "Error on hidden patches", _ERRORS[settings.loss]


def _row(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, numbers))

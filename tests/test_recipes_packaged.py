"""The packaged recipes have the values of the paper's tables, and each of them trains one step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from conftest import Tiny
from voxmim import api
from voxmim.recipe import Recipe, load_recipe, packaged_recipes
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.studies.request import Request
from voxmim.studies.trial import Trial
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain

SCANS = {"btcv": 24, "brats21": 1251, "tcia-covid19": 771}
LABELLED = {"btcv": 24, "brats21": 1251, "tcia-covid19": 24}  # TCIA-COVID19 has no labels: BTCV's
# encoder, pretext, depth of the decoder, epochs, weight decay, warm-up
METHODS: dict[str, tuple[str, str, int | None, int, float, float]] = {
    "mae": ("vit", "mae", 8, 3000, 0.05, 0.1),
    "mae-light": ("vit", "mae", 1, 3000, 0.05, 0.1),
    "simmim-vit": ("vit", "simmim", None, 1000, 1e-5, 0.05),
    "simmim-swin": ("swin", "simmim", None, 1000, 1e-5, 0.05),
    "simclr-vit": ("vit", "simclr", None, 1000, 0.05, 0.1),
}
TINY = {
    "tiny": ("vit", "mae"),
    "tiny-simmim-vit": ("vit", "simmim"),
    "tiny-simmim-swin": ("swin", "simmim"),
    "tiny-simclr-vit": ("vit", "simclr"),
    "tiny-simclr-swin": ("swin", "simclr"),
    "tiny-mae-unet": ("unet", "mae"),
    "resenc-tiny": ("resenc", "mae"),
}
PAPERS = [(method, data) for method in METHODS for data in SCANS]


def test_every_method_has_a_recipe_for_every_data_set() -> None:
    others = {"demo", "vit-b-btcv", "resenc-hour", "resenc-gpu"}
    promised = {f"{method}-{data}" for method, data in PAPERS} | set(TINY) | others
    assert set(packaged_recipes()) == promised


def steps(epochs: int, scans: int) -> int:
    """Four scans per step; the last step of an epoch may have fewer."""
    return epochs * -(-scans // 4)


def assert_common_settings(recipe: Recipe, data: str) -> None:
    """Check the settings that all recipes of the paper have in common."""
    assert (recipe.crop, recipe.overlap, recipe.precision) == ((96, 96, 96), 0.5, "16")
    assert recipe.window == (-175.0, 250.0)  # not used for MR
    assert (recipe.unetr.feature_size, recipe.unetr.stem) == (16, True)
    for training in (recipe.pretrain, recipe.finetune):
        assert (training.batch, training.crops_per_scan, training.clip, training.layer_decay) == (16, 4, 0.0, 1.0)
        chances = training.augmentation
        assert (chances.flip, chances.rot90, chances.affine) == (0.1, 0.1, 0.0)
        assert (chances.shift, chances.intensity, chances.contrast, chances.noise) == (0.1, 0.5, 0.0, 0.0)
    finetune = recipe.finetune
    assert (finetune.lr, finetune.weight_decay, finetune.warmup, finetune.foreground) == (3e-4, 0.05, 0.1, 0.5)
    assert finetune.steps == steps(3000, LABELLED[data])


@pytest.mark.parametrize(("method", "data"), PAPERS)
def test_the_recipes_of_the_paper_have_its_values(method: str, data: str) -> None:
    recipe = load_recipe(f"{method}-{data}")
    encoder, pretext, depth, epochs, decay, warmup = METHODS[method]
    assert (recipe.encoder, recipe.pretext) == (encoder, pretext)
    assert_common_settings(recipe, data)
    if encoder == "vit":
        vit = recipe.encoder_settings
        assert (vit.width, vit.depth, vit.heads, vit.width * vit.mlp_ratio, vit.patch) == (768, 12, 12, 3072, (16,) * 3)
        assert (vit.position_embedding, vit.rope, vit.registers, recipe.mask.unit) == ("sincos", False, 0, None)
    else:
        swin = recipe.encoder_settings
        assert (swin.patch, swin.width, swin.window) == ((4, 4, 4), 96, 7)
        assert (swin.depths, swin.heads, swin.last_merge) == ((2, 2, 6, 2), (3, 6, 12, 24), False)
    if pretext != "simclr":
        assert (recipe.mask.kind, recipe.mask.ratio) == ("random", 0.75)
        assert recipe.pretext_settings.loss == "l1"
    if pretext == "mae":
        mae = recipe.pretext_settings
        assert (mae.decoder_width, mae.decoder_depth, mae.decoder_heads) == (512, depth, 8)
        assert (mae.target, mae.cross_attention, mae.predicted_fraction) == ("raw", False, 1.0)
    training = recipe.pretrain
    rate = 1e-4 if pretext == "simmim" and data != "brats21" else 3e-4
    assert (training.lr, training.weight_decay, training.warmup) == (rate, decay, warmup)
    assert training.steps == steps(epochs, SCANS[data])


def test_the_older_recipe_name_gives_the_mae_of_the_paper() -> None:
    older, newer = load_recipe("vit-b-btcv"), load_recipe("mae-btcv")
    newer.about = older.about
    assert newer == older


@pytest.mark.parametrize("name", TINY)
def test_the_tiny_recipes_are_small_enough_for_two_cores(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.encoder, recipe.pretext) == TINY[name]
    voxels = recipe.crop_voxels if recipe.crop is None else math.prod(recipe.crop)
    assert recipe.pretrain.batch * voxels <= 32 * 32**3
    assert recipe.pretrain.steps * recipe.pretrain.batch * voxels <= 21_000 * 32**3


@pytest.mark.parametrize("pretext", ["simmim", "simclr"])
def test_the_tiny_recipes_have_the_networks_of_studies_with_tiny(tiny: Tiny, tmp_path: Path, pretext: str) -> None:
    steps = {"finetune.steps": 300}
    whole = {"finetune.validation_fraction": 1.0, **steps}  # studies validate on all cases
    packaged = load_recipe(f"tiny-{pretext}-vit", whole)
    arm = Request((tiny.store,), tmp_path, "tiny", steps, ("all",)).recipe_of(pretext)
    fine_tuning = Trial("finetune", tiny.store, arm).own_recipe
    assert Trial("pretrain", tiny.store, packaged).own_recipe == Trial("pretrain", tiny.store, arm).own_recipe
    assert (
        Trial("finetune", tiny.store, packaged).own_recipe
        == fine_tuning
        == Trial("finetune", tiny.store, load_recipe("tiny", whole)).own_recipe
    )


SMALL: dict[str, Any] = {
    "crop": [16, 16, 8], "precision": "32", "mask.unit": None,
    "vit.patch": [4, 4, 4], "vit.width": 12, "vit.depth": 1, "vit.heads": 2,
    "swin.patch": [2, 2, 2], "swin.width": 4, "swin.depths": [1, 1], "swin.heads": [1, 2],
    "unet.width": 4, "unet.blocks": [1, 1, 1], "resenc.widths": [4, 8, 8], "resenc.blocks": [0, 1, 1],
    "mae.decoder_width": 12, "mae.decoder_depth": 1, "mae.decoder_heads": 2,
    "pretrain.steps": 1, "pretrain.batch": 2, "pretrain.crops_per_scan": 1,
    "finetune.steps": 1, "finetune.batch": 1, "finetune.crops_per_scan": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of heads with four channels and three overlapping regions."""
    folder = tmp_path_factory.mktemp("heads")
    prepare(
        api.phantom(folder / "heads", 4, seed=2, kind="head"), folder / "store", (9.0, 9.0, 9.0), workers=1, quiet=True
    )
    return folder / "store"


# Those for TCIA-COVID19 differ from those for BTCV in values only.
@pytest.mark.parametrize("name", [name for name in packaged_recipes() if not name.endswith("tcia-covid19")])
def test_every_recipe_trains_one_step_when_scaled_down(tiny: Tiny, heads: Path, tmp_path: Path, name: str) -> None:
    store, recipe = Store(heads if name.endswith("brats21") else tiny.store), load_recipe(name, SMALL)
    run = pretrain(store, tmp_path / "run", recipe)
    (row,) = run.metrics()
    assert row["loss"] > 0
    assert row["val_loss"] > 0
    tuned, _ = finetune(store, tmp_path / "tuned", recipe, run.path, labels="1")
    assert tuned.metrics()[0]["loss"] > 0
    names = ["WT", "TC", "ET"] if name.endswith("brats21") else ["bone", "fat"]
    assert [key for key in ("WT", "TC", "ET", "bone", "fat") if f"val_dice {key}" in tuned.metrics()[0]] == names

"""Recipes: every mistake is reported in one sentence."""

from __future__ import annotations

import dataclasses
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from voxmim.errors import RecipeError
from voxmim.networks.build import ENCODERS
from voxmim.pretext.build import PRETEXTS, fitting_pretexts
from voxmim.recipe import (
    Recipe,
    fit_crop,
    load_recipe,
    make_recipe,
    packaged_recipes,
    recipe_to_yaml,
    with_crop,
    write_recipe,
)
from voxmim.settings import Training

triples = st.tuples(*[st.integers(1, 200)] * 3)


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_is_short_described_and_loads(name: str) -> None:
    text = (resources.files("voxmim") / "recipes" / f"{name}.yaml").read_text()
    assert len(text.splitlines()) < 25
    assert packaged_recipes()[name] == load_recipe(name).about != ""


def test_the_packaged_recipes_are_those_documented() -> None:
    assert {"tiny", "vit-b-btcv"} <= set(packaged_recipes())


def test_the_btcv_recipe_has_the_values_of_the_paper() -> None:
    recipe = load_recipe("vit-b-btcv")
    vit, mae = recipe.encoder_settings, recipe.pretext_settings
    assert (vit.width, vit.depth, vit.heads, vit.width * vit.mlp_ratio) == (768, 12, 12, 3072)
    assert (recipe.crop, vit.patch) == ((96, 96, 96), (16, 16, 16))
    assert (mae.decoder_width, mae.decoder_depth, mae.decoder_heads) == (512, 8, 8)
    assert (recipe.mask.ratio, mae.target, mae.loss) == (0.75, "raw", "l1")
    assert (recipe.unetr.feature_size, recipe.unetr.stem) == (16, True)
    assert (recipe.window, recipe.overlap, recipe.precision) == ((-175.0, 250.0), 0.5, "16")
    epoch = 24 // 4  # steps: the 24 training scans, 4 at a time
    for training in (recipe.pretrain, recipe.finetune):
        assert (training.lr, training.weight_decay, training.warmup) == (3e-4, 0.05, 0.1)
        assert (training.batch, training.crops_per_scan, training.steps) == (16, 4, 3000 * epoch)
        chances = training.augmentation
        assert (chances.flip, chances.rot90, chances.affine) == (0.1, 0.1, 0.0)
        assert (chances.shift, chances.intensity, chances.contrast, chances.noise) == (0.1, 0.5, 0.0, 0.0)
    assert recipe.finetune.foreground == 0.5


@given(
    patch=st.sampled_from([2, 4, 8, 16]),
    cells=st.none() | st.tuples(*[st.integers(1, 9)] * 3),
    heads=st.integers(1, 12),
    low=st.floats(-2000, 2000),
    span=st.floats(1, 2000),
    lr=st.floats(1e-7, 1),
    scratch=st.none() | st.floats(1e-6, 1e-2),
    precision=st.sampled_from(["auto", "bf16", "16", "32"]),
    target=st.sampled_from(["raw", "normalised"]),
    stem=st.booleans(),
    about=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
)
@example(4, None, 2, -175.0, 425.0, 1e-3, None, "16", "raw", True, "null")
@settings(max_examples=25, deadline=None)
def test_a_recipe_survives_a_round_trip_through_yaml(
    patch: int, cells: Any, heads: int, low: float, span: float, lr: float, scratch: float | None, precision: str,
    target: str, stem: bool, about: str,
) -> None:  # fmt: skip
    recipe = make_recipe(
        {
            "about": about,
            "crop": None if cells is None else [patch * c for c in cells],
            "window": [low, low + span],
            "precision": precision,
            "scratch_lr": scratch,
            "vit": {"patch": [patch] * 3, "width": 12 * heads, "heads": heads},
            "mae": {"target": target},
            "unetr": {"stem": stem},
            "finetune": {"lr": lr, "augmentation": {"flip": 0.25}},
        }
    )
    assert make_recipe(yaml.safe_load(recipe_to_yaml(recipe))) == recipe
    assert (recipe.finetune.lr, recipe.about, recipe.encoder_settings.patch) == (lr, about, (patch,) * 3)


def test_a_written_recipe_is_read_back(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", {"seed": 7, "pretrain.steps": 3})
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_overrides_change_only_the_settings_that_they_name() -> None:
    plain, changed = load_recipe("tiny"), load_recipe("tiny", {"mask.ratio": 0.6, "finetune.augmentation.flip": 0.3})
    assert (changed.mask.ratio, changed.finetune.augmentation.flip) == (0.6, 0.3)
    plain.mask.ratio, plain.finetune.augmentation.flip = 0.6, 0.3
    assert changed == plain


def test_an_empty_recipe_has_the_settings_of_the_paper(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(tmp_path / "empty.yaml") == Recipe()


def test_an_unquoted_precision_is_accepted() -> None:
    assert make_recipe({"precision": 16}) == make_recipe({"precision": "16"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        # unknown names, with the closest known one
        ({"ratoi": 1}, "'ratoi' is not a setting"),
        ({"windwo": [0, 1]}, "'windwo' is not a setting; did you mean 'window'?"),
        ({"mask": {"ratoi": 0.5}}, "'mask.ratoi' is not a setting; did you mean 'mask.ratio'?"),
        (
            {"finetune": {"augmentation": {"flop": 1}}},
            "'finetune.augmentation.flop' .* did you mean 'finetune.augmentation.flip'?",
        ),
        # values of the wrong type
        ({"vit": {"width": "wide"}}, "vit.width"),
        ({"seed": 1.5}, "seed"),
        ({"mae": {"target": "colour"}}, "mae.target"),
        ({"window": [1, 2, 3]}, "window"),
        ({"vit": 3}, "'vit' is a group of settings"),
        ({"vit": None}, "'vit' is a group of settings"),
        ({"precision": 64}, "precision"),
        # invalid values or combinations
        ({"crop": [96, 96, 90]}, r"crop \(96, 96, 90\) is not a multiple of the vit's patch \(16, 16, 16\)"),
        ({"crop": [0, 16, 16]}, "crop"),
        ({"vit": {"patch": [12, 12, 12]}}, "power of two along each axis"),
        ({"vit": {"patch": [0, 0, 0]}}, r"vit.patch is \(0, 0, 0\), but must be at least 1"),
        ({"vit": {"heads": 5}}, "multiple of its number of heads"),
        ({"mae": {"decoder_heads": 7}}, "multiple of its number of heads"),
        ({"vit": {"heads": 0}}, "vit.heads is 0"),
        ({"vit": {"depth": 0}}, "vit.depth is 0"),
        ({"mask": {"ratio": 1.0}}, "between 0 and 1"),
        ({"mask": {"ratio": 0}}, "between 0 and 1"),
        ({"window": [250, -175]}, "must rise"),
        ({"overlap": 1.0}, "overlap"),
        ({"pretrain": {"steps": 0}}, "pretrain.steps is 0"),
        ({"finetune": {"batch": -2}}, "finetune.batch is -2"),
        ({"finetune": {"lr": 0.0}}, "finetune.lr is 0.0, but must be above 0"),
        ({"pretrain": {"warmup": 1.5}}, "pretrain.warmup is 1.5, but must lie from 0 to 1"),
        ({"devices": 3}, "pretrain.batch 16 must be a multiple of nodes 1 x devices 3 x accumulate 1"),
        ({"nodes": 3}, "pretrain.batch 16 must be a multiple of nodes 3 x devices 1"),
        ({"nodes": 0}, "nodes is 0"),
        ({"finetune": {"batch": 8, "accumulate": 3}}, "finetune.batch 8 must be a multiple of .* accumulate 3"),
        ({"finetune": {"accumulate": 0}}, "finetune.accumulate is 0"),
        ({"pretext": "simclr", "pretrain": {"accumulate": 2}}, "pretrain.accumulate must be 1 with SimCLR"),
        ({"pretrain": {"ema": 1.0}}, "pretrain.ema is 1.0, but must lie from 0 to under 1"),
        ({"finetune": {"freeze": 1.5}}, "finetune.freeze is 1.5, but must lie from 0 to 1"),
        ({"pretrain": {"freeze": 0.5}}, "pretrain.freeze is 0.5, but a pre-training trains the encoder"),
        ({"finetune": {"layer_decay": 0.0}}, "finetune.layer_decay is 0.0, but must be above 0"),
        ({"pretrain": {"clip": -1.0}}, "pretrain.clip is -1.0, but must be at least 0"),
        ({"devices": 0}, "devices is 0"),
        # encoders, pretexts and masks
        ({"encoder": "swim"}, "encoder"),
        ({"encoder": "swin"}, "the pretext mae cannot pre-train the encoder swin; use vit or unet"),
        ({"encoder": "unet", "pretext": "simmim"}, "simmim cannot pre-train the encoder unet; use vit or swin"),
        ({"pretext": "simclr", "pretrain": {"batch": 1}}, "pretrain.batch is 1, but SimCLR"),
        ({"encoder": "unet", "mae": {"target": "normalised"}}, "the unet's MAE predicts raw voxels"),
        ({"carry_decoder": True}, "the encoder vit has no decoder"),
        ({"mae": {"predicted_fraction": 0.5}}, "mae.predicted_fraction is 0.5, .* needs cross_attention"),
        ({"mae": {"predicted_fraction": 0.0, "cross_attention": True}}, "mae.predicted_fraction is 0.0"),
        ({"mask": {"body_fraction": 1.5}}, "mask.body_fraction is 1.5"),
        ({"vit": {"registers": -1}}, "vit.registers is -1"),
        ({"swin": {"patch": [8, 8, 8]}}, "swin.patch .* must be 2 or 4"),
        ({"swin": {"depths": [2, 2]}}, "must have one number for each of 2 to 4 stages"),
        ({"swin": {"heads": [3, 6, 12, 25]}}, "multiple of its number of heads"),
        ({"swin": {"depths": [2, 0, 2, 2]}}, r"swin.depths is \(2, 0, 2, 2\), but must be at least 1"),
        ({"unet": {"blocks": []}}, r"unet.blocks is \(\), but must be at least 1"),
        ({"encoder": "unet", "crop": [96, 96, 40]}, r"is not a multiple of the unet's patch \(16, 16, 16\)"),
        (
            {"encoder": "swin", "pretext": "simclr", "crop": [32, 16, 32]},
            "single cell of the swin's bottleneck features",
        ),
        ({"simclr": {"temperature": 0.0}}, "simclr.temperature is 0.0, but must be above 0"),
        ({"pretrain": {"augmentation": {"elastic": 1.5}}}, "pretrain.augmentation.elastic is 1.5, .* from 0 to 1"),
        ({"finetune": {"augmentation": {"flip": -0.1}}}, "finetune.augmentation.flip is -0.1, .* from 0 to 1"),
        ({"finetune": {"augmentation": {"blur": -1}}}, "augmentation.blur is -1.0, .* at least 0"),
        ({"finetune": {"augmentation": {"scale": 1}}}, "augmentation.scale is 1.0, .* under 1"),
        ({"pretrain": {"augmentation": {"displace": 13}}}, "augmentation.displace 13.0 would fold .* control, 32.0"),
        ({"pretrain": {"augmentation": {"control": 0}}}, "would fold .* control, 0.0"),
        ({"seed": None}, "seed is null, which is not a value of this setting"),
        ({"finetune": {"lr": None}}, "finetune.lr is null"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^my.yaml: .*{message}") as exc_info:
        make_recipe(wrong, "my.yaml")
    assert "\n" not in str(exc_info.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask": {"unit": [16, 16, 24]}}, r"mask.unit \(16, 16, 24\) is not a multiple of the vit's patch"),
        ({"mask": {"unit": [64, 64, 64]}}, r"\(96, 96, 96\) is not a multiple of the mask unit \(64, 64, 64\)"),
        ({"mask": {"unit": [96, 96, 96]}}, "is a single mask unit, so that nothing could be masked"),
        ({"crop": [16, 16, 16]}, "is a single mask unit, so that nothing could be masked"),
    ],
)
def test_masks_that_do_not_fit_are_refused_only_for_masked_pretexts(wrong: dict[str, Any], message: str) -> None:
    recipe = make_recipe(wrong)
    with pytest.raises(RecipeError, match=f"^store: .*{message}"):
        with_crop(recipe, [(96, 96, 96)], "store")
    assert with_crop(recipe, [(96, 96, 96)], "store", masked=False) == recipe


def test_a_unet_accepts_mask_units_smaller_than_its_patch() -> None:
    recipe = make_recipe({"encoder": "unet", "mask": {"unit": [8, 8, 8]}})
    assert recipe.encoder_settings.patch == (16, 16, 16)
    assert with_crop(recipe, [(96, 96, 96)], "store").mask_unit == (8, 8, 8)


def test_an_unknown_recipe_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe 'tini' is not known; did you mean 'tiny'\?"):
        load_recipe("tini")
    with pytest.raises(RecipeError, match=r"'zzz' is not known; the packaged ones are .*tiny"):
        load_recipe("zzz")
    with pytest.raises(RecipeError, match=r"gone\.yaml: there is no such recipe file"):
        load_recipe(tmp_path / "gone.yaml")


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not valid YAML"), ("- a\n- b", "is a mapping")])
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"bad\.yaml: .*{message}"):
        load_recipe(tmp_path / "bad.yaml")


def test_an_override_below_a_scalar_is_refused() -> None:
    with pytest.raises(RecipeError, match="'seed' is a single value"):
        load_recipe("tiny", {"seed": 1, "seed.more": 2})


def test_recipes_do_not_share_default_settings() -> None:
    one, two = Recipe(), Recipe()
    one.pretrain.augmentation.flip = 0.9
    assert two.pretrain.augmentation.flip == Training().augmentation.flip == one.finetune.augmentation.flip


@given(
    shapes=st.lists(triples, min_size=1, max_size=5), size=st.sampled_from([4, 8, 16]), limit=st.integers(512, 96**3)
)
@settings(max_examples=60, deadline=None)
def test_a_fitted_crop_is_a_multiple_of_the_patch_and_no_larger_than_needed(shapes: Any, size: int, limit: int) -> None:
    patch = (size, size, size)
    crop = fit_crop(shapes, patch, limit)
    assert all(c % size == 0 and c > 0 for c in crop)
    assert math.prod(crop) <= limit or crop == patch
    whole = [-(-sorted(s[a] for s in shapes)[len(shapes) // 2] // size) * size for a in range(3)]
    assert all(c <= w for c, w in zip(crop, whole, strict=True))
    assert fit_crop(list(reversed(shapes)), patch, limit) == crop
    if math.prod(whole) <= limit:
        assert list(crop) == whole


@given(shape=triples, limit=st.integers(4096, 200_000))
@settings(max_examples=60, deadline=None)
def test_the_longest_axes_are_shortened_first(shape: Any, limit: int) -> None:
    crop = fit_crop([shape], (8, 8, 8), limit)
    whole = [-(-n // 8) * 8 for n in shape]
    assume(list(crop) != whole)
    cut = [c for c, w in zip(crop, whole, strict=True) if c < w]
    spared = [c for c, w in zip(crop, whole, strict=True) if c == w]
    assert all(s <= min(cut) + 8 for s in spared)
    assert max(cut) - min(cut) <= 8
    grown = list(crop)
    shortest_cut = min((a for a in range(3) if crop[a] < whole[a]), key=lambda a: crop[a])
    grown[shortest_cut] += 8
    assert math.prod(grown) > limit  # no larger crop fits


def test_every_setting_is_documented() -> None:
    """Each setting must be described in the docstring of its class."""

    def check(kind: Any) -> None:
        for field in dataclasses.fields(kind):
            assert f"        {field.name}: " in (kind.__doc__ or "") or f", {field.name}" in (kind.__doc__ or "")
            if dataclasses.is_dataclass(field.default_factory):
                check(field.default_factory)

    settings = [entry.settings for entry in ENCODERS.values()] + [pretext.Settings for pretext in PRETEXTS.values()]
    for kind in (Recipe, *settings):
        check(kind)


def test_renamed_settings_are_accepted_and_reported_in_one_line(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "old.yaml").write_text(
        "rates: [0.1]\nvit: {rotary: true, positions: learned, checkpoint: true}\nmask: {body_share: 0.5}\n"
        "mae: {cross: true, share: 0.5}\nunet: {most_width: 64}\n"
    )
    recipe = load_recipe(tmp_path / "old.yaml")
    vit, mae = recipe.encoder_settings, recipe.pretext_settings
    assert (vit.rope, vit.position_embedding, vit.grad_checkpointing) == (True, "learned", True)
    assert (mae.cross_attention, mae.predicted_fraction) == (True, 0.5)
    assert (recipe.mask.body_fraction, recipe.lrs) == (0.5, (0.1,))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'old.yaml'}: settings have been renamed: ")
    assert "vit.rotary is now vit.rope" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_an_override_by_an_old_name_takes_precedence_over_the_recipe() -> None:
    assert load_recipe("tiny", {"mae.share": 0.25}).pretext_settings.predicted_fraction == 0.25
    assert load_recipe("tiny", {"rates": [0.5]}).lrs == (0.5,)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_has_default_settings_of_each_of_its_pretexts(encoder: str) -> None:
    for pretext in fitting_pretexts(encoder):
        assert isinstance(Recipe(encoder=encoder, pretext=pretext).pretext_settings, PRETEXTS[pretext].Settings)


def test_settings_of_other_encoders_and_pretexts_are_left_out() -> None:
    recipe = make_recipe({"swin": {"width": 48}, "simclr": {"temperature": 0.5}})
    assert recipe == Recipe()
    assert {"vit", "mae"} <= set(yaml.safe_load(recipe_to_yaml(recipe)))
    assert not {"swin", "unet", "simmim", "simclr"} & set(yaml.safe_load(recipe_to_yaml(recipe)))


@pytest.mark.parametrize(("size", "width", "depth", "heads"), [("tiny", 192, 12, 3), ("large", 1024, 24, 16)])
def test_a_vit_can_be_specified_by_the_name_of_its_size(
    tmp_path: Path, size: str, width: int, depth: int, heads: int
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"vit: {{size: {size}, patch: [8, 8, 8]}}\n")
    vit = load_recipe(file).encoder_settings
    assert (vit.width, vit.depth, vit.heads, vit.patch) == (width, depth, heads, (8, 8, 8))
    assert load_recipe("tiny", {"vit.size": size}).encoder_settings.width == width  # overrides the width
    assert make_recipe({"vit": {"size": size, "depth": 2}}).encoder_settings.depth == 2


def test_a_swin_can_be_specified_by_the_name_of_its_size() -> None:
    swin = make_recipe({"encoder": "swin", "pretext": "simmim", "swin": {"size": "base"}}).encoder_settings
    assert (swin.width, swin.depths, swin.heads) == (128, (2, 2, 18, 2), (4, 8, 16, 32))


@pytest.mark.parametrize("settings", [{"vit": {"size": "huge"}}, {"swin": {"size": "large"}}])
def test_an_unknown_size_is_refused_with_the_known_ones(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"size is \w+, but must be tiny, small, base"):
        make_recipe(settings)
    group, size = next(iter(settings)), next(iter(settings.values()))["size"]
    with pytest.raises(RecipeError, match="must be tiny, small, base"):
        load_recipe("tiny", {f"{group}.size": size})

"""All commands on head phantoms with four channels and three overlapping tumour regions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conftest import TINY_RECIPE, TINY_TRAINING
from voxmim import api
from voxmim.images.volume import Volume, read_volume, write_volume
from voxmim.recipe import make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.training.run import Run
from voxmim.weights.files import read_weights

SEQUENCES = ["T1", "T1ce", "T2", "FLAIR"]
TRAINING = {**TINY_TRAINING, "steps": 8, "validate_every": 4}
RECIPE: dict[str, Any] = {
    **TINY_RECIPE, "crop": [16, 16, 16], "channels": "drawn", "unetr": {"feature_size": 4, "direct": True},
    "pretrain": {**TRAINING, "augmentation": {"contrast": 0.2}},
    "finetune": {**TRAINING, "steps": 60, "validate_every": 30, "lr": 5e-3, "foreground": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with heads, store, recipe, pretrain and finetune; one unlabelled head comes without T1 and T2."""
    folder = tmp_path_factory.mktemp("heads")
    heads = api.phantom(folder / "heads", 5, 3, kind="head")
    whole = read_volume(heads / "imagesTr" / "phantom_000.nii.gz", 4)
    for channel in (1, 3):
        alone = Volume(whole.array[channel : channel + 1], whole.affine)
        write_volume(heads / "extra_unlabelled" / f"poor_000{channel}.nii.gz", alone)
    splits = json.loads((heads / "splits.json").read_text())
    (heads / "splits.json").write_text(json.dumps({**splits, "unlabelled": ["poor"]}))
    api.prepare(heads, folder / "store", spacing=(7.6, 7.6, 7.6), workers=1, quiet=True)
    write_recipe(folder / "recipe.yaml", make_recipe(RECIPE))
    api.pretrain(folder / "store", folder / "pretrain", folder / "recipe.yaml")
    api.finetune(folder / "store", folder / "finetune", init=folder / "pretrain")
    return folder


def test_store_and_weights_have_channels_and_regions(journey: Path) -> None:
    store = Store(journey / "store")
    assert store.preparation.channels == tuple(SEQUENCES)
    assert list(store.regions.items()) == [("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))]
    assert {case.name: case.missing for case in store.cases.values() if case.missing} == {"poor": (0, 2)}
    for run, kind in (("pretrain", "encoder"), ("finetune", "segmentor")):
        _, metadata = read_weights(journey / run / f"{kind}.safetensors")
        assert metadata["preparation"]["channels"] == SEQUENCES
    assert metadata["regions"] == {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    assert set(metadata["labels"]) == {"1", "2", "3"}


def test_the_fine_tuning_loads_the_complete_encoder_and_reports_each_region(journey: Path) -> None:
    run = Run.open(journey / "finetune")
    assert "100.0% of the encoder" in run.about["transfer"]
    header = (run.path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[4:8] == ["val_dice", "val_dice WT", "val_dice TC", "val_dice ET"]
    report = (run.path / "report.html").read_text()
    assert [
        name for name in ("WT", "TC", "ET", "T1, T1ce, T2, FLAIR", "Dice + binary cross-") if name not in report
    ] == []


def test_evaluation_has_a_row_for_each_region_and_scores_the_prior(journey: Path, tmp_path: Path) -> None:
    result = api.evaluate(journey / "finetune", journey / "store", csv_file=tmp_path / "rows.csv")
    assert list(result["labels"]) == list(result["prior"]["labels"]) == ["WT", "TC", "ET"]
    assert result["left_out"] == []
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["label"] for row in rows[:3]] == ["WT", "TC", "ET"]
    assert all(0 <= result["labels"][region]["dice"] <= 1 for region in ("WT", "TC", "ET"))
    validated = [row["val_dice"] for row in Run.open(journey / "finetune").metrics() if "val_dice" in row]
    assert max(validated) > 0.1


def test_label_maps_have_known_values_on_the_grid_of_the_scan_from_one_file_or_four(
    journey: Path, tmp_path: Path
) -> None:
    scan = next(iter(Store(journey / "store").in_split("test"))).image[0]
    apart = tmp_path / "apart"
    whole = read_volume(scan, 4)
    for channel in range(4):
        write_volume(apart / f"case_000{channel}.nii.gz", Volume(whole.array[channel : channel + 1], whole.affine))
    (one,) = api.predict(journey / "finetune", [scan], tmp_path / "one", probabilities=True)
    (four,) = api.predict(journey / "finetune", [apart], tmp_path / "four")
    assert four.name == "case.nii.gz"
    labels, own = nib.load(one), nib.load(scan)
    assert labels.shape == own.shape[:3]
    np.testing.assert_allclose(labels.affine, own.affine, atol=1e-4)
    values = np.asarray(labels.dataobj)
    assert set(np.unique(values)) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(values, np.asarray(nib.load(four).dataobj))
    regions = nib.load(tmp_path / "one" / f"{one.name.removesuffix('.nii.gz')}_probabilities.nii.gz")
    assert regions.shape == (*own.shape[:3], 3)
    assert 0 <= np.asarray(regions.dataobj).min() <= np.asarray(regions.dataobj).max() <= 1

    (picture,) = api.reconstruct(journey / "pretrain", [apart], tmp_path / "pictures")
    assert picture.name == "case.png"
    assert nib.load(tmp_path / "pictures" / "case_reconstructed.nii.gz").shape == own.shape


def test_a_list_may_name_the_channels_in_any_order(journey: Path, tmp_path: Path) -> None:
    scan = next(iter(Store(journey / "store").in_split("test"))).image[0]
    whole, files = read_volume(scan, 4), [f"case_000{channel}.nii.gz" for channel in range(4)]
    for file, channel in zip(files, whole.array, strict=True):
        write_volume(tmp_path / "apart" / file, Volume(channel[None], whole.affine))
    header = ",".join(f"image:{name}" for name in reversed(SEQUENCES))
    (tmp_path / "apart" / "list.csv").write_text(f"case,{header}\nlisted,{','.join(reversed(files))}\n")
    given = [tmp_path / "apart", tmp_path / "apart" / "list.csv"]
    for folder, written in (
        ("labels", api.predict(journey / "finetune", given, tmp_path / "labels")),
        ("pictures", api.reconstruct(journey / "pretrain", given, tmp_path / "pictures")),
    ):
        assert [file.name.split(".")[0] for file in written] == ["case", "listed"]
        for one in (tmp_path / folder).glob("case*.nii.gz"):
            other = one.with_name(one.name.replace("case", "listed"))
            np.testing.assert_array_equal(nib.load(one).dataobj, nib.load(other).dataobj)

"""Scans with several channels, some of them missing: pre-training uses them, and fine-tuning leaves them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import TINY_RECIPE, TINY_TRAINING
from voxmim.errors import StoreError
from voxmim.recipe import Recipe, make_recipe
from voxmim.report.reconstruct import Reconstructor
from voxmim.report.run_page import write_run_page
from voxmim.store.crops import CropPlan
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case
from voxmim.tasks.cases import labelled_train_cases as draw_cases
from voxmim.tasks.scans import labelled_cases, source_of
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.training.validate_pretext import Validation
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder

NAMES = ("T1", "T1ce", "T2")
SHAPE = (14, 13, 15)
MISSING: dict[str, tuple[str, tuple[int, ...]]] = {
    "whole": ("train", ()), "poor": ("train", (0, 2)), "odd": ("unlabelled", (1,)),
    "val_a": ("val", ()), "val_b": ("val", (0,)), "val_c": ("val", ()),
}  # fmt: skip


def recipe_of(**changes: Any) -> Recipe:
    training = {**TINY_TRAINING, "steps": 3, "validate_every": 1, "checkpoint_every": 2}
    sizes = {
        "swin": {"patch": [2, 2, 2], "width": 4, "depths": [1, 1], "heads": [1, 2], "window": 2, "last_merge": True},
        "unet": {"width": 4, "blocks": [1, 1, 1]},
    }
    return make_recipe({**TINY_RECIPE, **sizes, "pretrain": training, "finetune": {**training, "steps": 1}, **changes})


def make_store(path: Path, changed: dict[str, tuple[str, tuple[int, ...]]] | None = None) -> Store:
    rng, cases = np.random.default_rng(0), []
    for name, (split, missing) in (MISSING | (changed or {})).items():
        image = rng.normal(0, 1, (3, *SHAPE)).astype(np.float16)
        image[list(missing)] = 0
        label = None
        if split != "unlabelled":
            label = np.zeros(SHAPE, np.uint8)
            label[4:10, 4:10, 4:10], label[6:9, 6:9, 6:9] = 1, 2
        case = Case(name, split, SHAPE, (f"{name}.nii",), label if label is None else f"{name}_label.nii",
                    missing=missing)  # fmt: skip
        cases.append(write_case(path, case, image, label))
    regions = {"whole": (1, 2), "core": (2,)}
    Index("mr", Preparation((1.0, 1.0, 1.0), "mr", NAMES), {1: "rim", 2: "core"}, cases, regions=regions).write(path)
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("channels"))


def trace(run: Run) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.metrics()]


COMBINATIONS = [("mae", "vit"), ("mae", "unet"), ("simmim", "swin"), ("simclr", "vit")]


@pytest.mark.parametrize(
    ("pretext", "encoder", "channels"),
    [("mae", "vit", "all"), *((*pair, channels) for pair in COMBINATIONS for channels in ("drawn", "one"))],
)
def test_every_pretext_trains_on_the_existing_channels(
    store: Store, tmp_path: Path, pretext: str, encoder: str, channels: str
) -> None:
    recipe = recipe_of(pretext=pretext, encoder=encoder, channels=channels)
    run = pretrain(store, tmp_path / "run", recipe)
    assert all(np.isfinite(row["loss"]) for row in trace(run))
    inputs = ["any"] if channels == "one" else list(NAMES)
    for kind in ("encoder", "pretext"):
        _, metadata = read_weights(run.path / f"{kind}.safetensors")
        assert (metadata["inputs"], metadata["preparation"]["channels"]) == (inputs, list(NAMES))
    encoder_ = load_encoder(run.path)
    assert encoder_.channels == len(inputs)
    assert encoder_.encode(torch.rand(1, len(inputs), 12, 12, 12)).shape[1] == encoder_.width
    if (pretext, encoder) == ("mae", "vit"):
        write_run_page(run)
        facts = {
            "all": "T1, T1ce, T2<",
            "drawn": "T2; each crop had some of them",
            "one": "T2; each crop had one of them",
        }
        assert facts[channels] in (run.path / "report.html").read_text()


def test_a_resumed_run_draws_the_same_channels(store: Store, tmp_path: Path, stop_before_step: Any) -> None:
    uninterrupted = pretrain(store, tmp_path / "uninterrupted", recipe_of(channels="drawn"))
    with stop_before_step(2):
        pretrain(store, tmp_path / "stopped", recipe_of(channels="drawn"))
    assert trace(pretrain(store, tmp_path / "stopped", Recipe(), resume=True)) == trace(uninterrupted)


class RecordInputs:
    """A pretext network that only records its inputs."""

    views, columns = 1, ("val_loss",)

    def __init__(self) -> None:
        self.recorded: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def inputs(self, image: torch.Tensor, seeds: torch.Tensor, present: torch.Tensor | None) -> Any:
        return image, None if present is None or present.all() else present

    def __call__(self, volume: torch.Tensor, present: torch.Tensor | None) -> None:
        self.recorded.append((volume, present))

    def figures(self, output: None) -> dict[str, torch.Tensor]:
        return {"val_loss": torch.tensor(0.0)}


@pytest.mark.parametrize("channels", ["all", "drawn", "one"])
def test_validation_uses_all_existing_channels_or_fixed_ones_in_turn(store: Store, channels: str) -> None:
    recipe = recipe_of(channels=channels)
    plan = CropPlan((12, 12, 12), recipe.window, 0, channels=recipe.channels)
    network = RecordInputs()
    validation = Validation(make_fabric(recipe), network, store, store.in_split("val"), plan, recipe)  # type: ignore[arg-type]
    validation.run()
    first = list(network.recorded)
    network.recorded.clear()
    validation.run()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, network.recorded, strict=True))
    volumes, present = zip(*first, strict=True)
    if channels == "one":
        names = [case.name for case in store.in_split("val")]
        assert names == ["val_a", "val_b", "val_c"]
        for name, volume, channel in zip(names, volumes, (0, 2, 2), strict=True):  # val_b is second and has 1 and 2
            middle = torch.from_numpy(store.crop(name, (1, 0, 1), (12, 12, 12))).float()
            assert torch.equal(volume[0, 0], middle[channel])
        assert present == (None, None, None)
    else:
        assert [volume.shape[1] for volume in volumes] == [3, 3, 3]
        assert present[0] is present[2] is None
        assert present[1].tolist() == [[False, True, True]]


def test_a_network_with_one_input_channel_reconstructs_each_channel_separately(store: Store, tmp_path: Path) -> None:
    run = pretrain(store, tmp_path / "run", recipe_of(channels="one"))
    reconstructor = Reconstructor.load(run.path)
    image = np.float32(store.image("whole"))
    together = reconstructor.reconstruct(image, seed=5)
    for channel in range(3):
        alone = reconstructor.reconstruct(image[channel : channel + 1], seed=5)
        np.testing.assert_array_equal(alone.hidden, together.hidden)
        np.testing.assert_allclose(alone.reconstructed[0], together.reconstructed[channel], atol=1e-5)


# Tasks that need all channels


def test_a_fine_tuning_leaves_incomplete_cases_out_and_says_so_in_one_line(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finetune(store, tmp_path / "run", recipe_of())
    assert run.about["cases"] == ["whole"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "lack a channel" in line]
    assert lines == ["left out, since they lack a channel: poor, val_b"]
    (row,) = trace(run)
    assert {"val_dice", "val_dice whole", "val_dice core", "case val_a", "case val_c"} <= set(row)
    assert "case val_b" not in row
    _, metadata = read_weights(run.path / "segmentor.safetensors")
    assert metadata["regions"] == {"whole": [1, 2], "core": [2]}


def test_a_fine_tuning_is_refused_only_if_no_case_is_left(tmp_path: Path) -> None:
    bare = make_store(tmp_path / "store", {"whole": ("train", (2,))})
    with pytest.raises(StoreError, match="each of its labelled train cases lacks a channel; add files, or leave it"):
        draw_cases(bare, None, 0)


def test_evaluation_leaves_incomplete_cases_out_and_names_them(store: Store, tmp_path: Path) -> None:
    cases, left_out = labelled_cases(source_of(store.path, 0), "val")
    assert ([case.name for case in cases], left_out) == (["val_a", "val_c"], ["val_b"])
    index = json.loads((store.path / "index.json").read_text())
    index["cases"] = [case for case in index["cases"] if case["name"] == "val_b"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match=r"no labelled case that has every channel \(1 lack one\) in the split 'val'"):
        labelled_cases(source_of(tmp_path, 0), "val")


@pytest.mark.parametrize(("pretext", "encoder"), [("mae", "vit"), ("mae", "unet"), ("simmim", "swin")])
def test_an_encoder_of_single_channels_is_loaded_into_a_segmentor_of_all_channels(
    store: Store, tmp_path: Path, pretext: str, encoder: str
) -> None:
    recipe = recipe_of(pretext=pretext, encoder=encoder, channels="one")
    first = pretrain(store, tmp_path / "first", recipe)
    _, transfer = finetune(store, tmp_path / "second", recipe, first.path)
    assert transfer is not None
    assert (transfer.fraction, transfer.missing, transfer.warnings) == (1.0, {}, [])
    assert all("channels any to T1, T1ce, T2" in what for what in transfer.adapted.values())
    volume = torch.randn(1, 1, 8, 8, 8)
    whole = load_encoder(first.path, channels=NAMES)
    torch.testing.assert_close(whole.encode(volume.expand(-1, 3, -1, -1, -1)), load_encoder(first.path).encode(volume))
    if encoder == "vit":
        other = pretrain(store, tmp_path / "third", recipe, init=first.path)
        assert "100.0%" in other.about["transfer"]

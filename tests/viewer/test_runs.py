"""Runs in the viewer: fixed cases with the outputs of the network."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from conftest import TinyRuns
from voxmim.store.format import Store
from voxmim.viewer.opening import open_collection


def test_a_pre_training_shows_scan_mask_reconstruction_and_error(tiny_runs: TinyRuns) -> None:
    collection = open_collection(tiny_runs.pretrain)
    layers = {layer.name: layer for layer in collection.items[0].panels[0].layers}
    scan, masked, rebuilt, error = (
        layers[name].read().array for name in ("scan", "masked input", "reconstruction", "error")
    )
    hidden = masked != scan
    assert 0 < hidden.mean() < 1
    np.testing.assert_array_equal(rebuilt[~hidden & (scan > scan.min())], scan[~hidden & (scan > scan.min())])
    np.testing.assert_allclose(error, np.abs(rebuilt - scan), atol=1e-6)


def test_a_fine_tuning_shows_reference_and_prediction(tiny_runs: TinyRuns) -> None:
    store = Store(tiny_runs.store)
    collection = open_collection(tiny_runs.finetune)
    assert [item.name for item in collection.items] == [case.name for case in store.in_split("val")]
    layers = {layer.name: layer for layer in collection.items[0].panels[0].layers}
    np.testing.assert_array_equal(layers["reference"].read().array[0], store.label_map(collection.items[0].name))
    predicted = layers["prediction"].read().array[0]
    assert predicted.shape == store.cases[collection.items[0].name].shape
    assert set(np.unique(predicted)) <= {0, *store.labels}


def test_a_finished_run_is_not_live_and_links_its_report(tiny_runs: TinyRuns) -> None:
    collection = open_collection(tiny_runs.finetune)
    assert not collection.live()
    assert collection.page == tiny_runs.finetune / "report.html"


def test_the_learning_curves_are_drawn(tiny_runs: TinyRuns) -> None:
    drawn = open_collection(tiny_runs.finetune).curves()
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")


def test_a_study_shows_its_fine_tunings_side_by_side(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    for name, run in (
        ("a-pretrain", tiny_runs.pretrain),
        ("b-scratch", tiny_runs.finetune),
        ("c-mae", tiny_runs.finetune),
    ):
        shutil.copytree(run, tmp_path / "trials" / name)
    collection = open_collection(tmp_path)
    names = [case.name for case in Store(tiny_runs.store).in_split("val")]
    assert [item.name.split()[0] for item in collection.items] == [*names, *names]
    assert [panel.title for panel in collection.items[-1].panels] == ["b-scratch", "c-mae"]
    assert collection.items[-1].panels[1].layers[-1].name == "prediction"

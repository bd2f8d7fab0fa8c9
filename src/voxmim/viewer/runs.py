"""Runs and studies as collections: fixed cases with the network's output, during the training and afterwards."""

import time
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from voxmim.images.grid import Volume
from voxmim.images.intensity import window
from voxmim.report.plots import Plot, png
from voxmim.report.reconstruct import Reconstruction, Reconstructor
from voxmim.report.run_page import curve
from voxmim.report.run_pictures import prepared_case
from voxmim.store.format import Case, Store
from voxmim.studies.trial import TRIALS
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.training.run import ABOUT, METRICS, Run
from voxmim.viewer.collection import Collection, Item, Layer, Panel
from voxmim.viewer.scans import on_store_grid, store_layers

_TIMEOUT = 120  # seconds without a new row after which a training counts as stopped


def run_collection(path: Path) -> Collection:
    """A run with the validation cases of its store; raises StoreError if the store is missing."""
    run = Run.open(path)
    store = Store(run.about["store"]).in_fold(run.about.get("fold"))
    layers = reconstruction_layers if run.kind == "pretrain" else segmentation_layers
    items = [Item(case.name, (Panel("", layers(run, store, case)),), case.split) for case in _fixed_cases(store)]
    report = run.path / "report.html"
    return Collection(
        "run",
        run.path.resolve().name,
        items,
        page=report if report.is_file() else None,
        curves=partial(learning_curves, run),
        live=partial(_is_live, run),
    )


def study_collection(path: Path) -> Collection:
    """A study: fixed cases of each pre-training, and of all fine-tunings on one store side by side."""
    runs = [Run.open(file.parent) for file in sorted((path / TRIALS).glob(f"*/{ABOUT}"))]
    stores = {run.path: Store(run.about["store"]) for run in runs}
    items = []
    for run in (run for run in runs if run.kind == "pretrain"):
        store = stores[run.path]
        for case in _fixed_cases(store):
            panel = Panel("", reconstruction_layers(run, store, case))
            items.append(Item(f"{case.name} {run.path.name}", (panel,), case.split))
    tuned = [run for run in runs if run.kind == "finetune" and (run.path / "segmentor.safetensors").is_file()]
    for place in dict.fromkeys(stores[run.path].path for run in tuned):
        arms = [run for run in tuned if stores[run.path].path == place]
        store = stores[arms[0].path]
        for case in store.labelled("val"):
            panels = [Panel(run.path.name, segmentation_layers(run, store, case)) for run in arms]
            items.append(Item(f"{case.name} {store.path.name}", tuple(panels), "val"))
    pages = [*path.glob("report.html"), *sorted(path.glob("*/report.html"))]
    return Collection("study", path.resolve().name, items, page=pages[0] if pages else None)


def _fixed_cases(store: Store) -> list[Case]:
    """The validation cases, or without any the training cases."""
    return store.in_split("val") or store.in_split("train", "unlabelled")


def learning_curves(run: Run) -> bytes | None:
    """The validation curves of a run as PNG; None before the second validation."""
    validated = [row for row in run.metrics() if any(key.startswith("val_") for key in row)]
    names = [key for key in (validated[0] if validated else {}) if key.startswith("val_") and key != "val_score"]
    if len(validated) < 2:
        return None
    curves = [curve(key.removeprefix("val_"), [row for row in validated if key in row], key) for key in names]
    return png(Plot("Validation", "optimiser step", "value", curves))


def reconstruction_layers(run: Run, store: Store, case: Case) -> tuple[Layer, ...]:
    """Scan, masked input, reconstruction and error of a pre-training; only the scan if it predicts no voxels."""
    if not (run.path / "pretext.safetensors").is_file() or not run.recipe().pretext_class.reconstructs:
        return store_layers(store, case)

    def layer(name: str) -> Volume:
        result = _reconstructed(run.path, _written(run.path / "pretext.safetensors"), store, case.name)
        arrays = {
            "scan": result.original[0],
            "masked input": np.where(result.hidden, result.original.min(), result.original[0]),
            "reconstruction": result.reconstructed[0],
            "error": np.abs(result.reconstructed[0] - result.original[0]),
        }
        return on_store_grid(arrays[name].astype(np.float32), store)

    images = ("scan", "masked input", "reconstruction")
    shown = (Layer(name, "image", partial(layer, name), shown=name == "reconstruction") for name in images)
    return (*shown, Layer("error", "error", partial(layer, "error")))


def segmentation_layers(run: Run, store: Store, case: Case) -> tuple[Layer, ...]:
    """The scan's channels, the reference, and the prediction by a fine-tuning's best weights so far."""
    layers = store_layers(store, case)
    weights = run.path / "segmentor.safetensors"
    if not weights.is_file():
        return layers

    def predicted() -> Volume:
        return on_store_grid(_segmented(run.path, _written(weights), store, case.name), store)

    hidden = (replace(layer, shown=layer.kind == "image" and layer.shown) for layer in layers)
    return (*hidden, Layer("prediction", "labels", predicted, store.labels, shown=True))


@lru_cache(4)
def _reconstructed(run: Path, written: float, store: Store, case: str) -> Reconstruction:
    """The reconstruction with masks from the run's seed; cached by the time at which the weights were written."""
    recipe = Run.open(run).recipe()
    image = window(store.image(case), store.preparation.intensity, recipe.window)
    return _reconstructor(run, written).reconstruct(image, recipe.seed)


_reconstructor = lru_cache(1)(lambda run, written: Reconstructor.load(run))
_segmentor = lru_cache(4)(lambda run, written: Segmentor.load(run))


@lru_cache(4)
def _segmented(run: Path, written: float, store: Store, case: str) -> np.ndarray:
    return _segmentor(run, written).prepared_label_map(prepared_case(store, store.cases[case], store.image(case)))


def _written(file: Path) -> float:
    return file.stat().st_mtime


def _is_live(run: Run) -> bool:
    """Whether a training has recently written a row and has steps left."""
    metrics = run.path / METRICS
    if not metrics.is_file() or time.time() - _written(metrics) > _TIMEOUT:
        return False
    rows = run.metrics()
    return not rows or rows[-1]["step"] < getattr(run.recipe(), run.kind).steps

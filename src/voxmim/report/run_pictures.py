"""Pictures of reconstructions and segmentations of validation and test cases."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from voxmim.images.geometry import Grid
from voxmim.images.intensity import window
from voxmim.report.figures import HIDDEN_COLOUR, display_range, label_colour, middle_of, segmentation_picture
from voxmim.report.page import Picture
from voxmim.report.reconstruct import Reconstructor
from voxmim.store.format import Case, Store
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.training.damage import Damage
from voxmim.training.pretrain import pretraining_cases
from voxmim.training.run import Run

_SHOWN = 2  # cases


def reconstruction_pictures(run: Run, store: Store) -> list[Picture]:
    """Reconstructions of the first validation cases with masks from the run's seed; none if the pretext has none."""
    recipe = run.recipe()
    if not recipe.pretext_class.reconstructs:
        return []
    reconstructor = Reconstructor.load(run.path)
    cases, held_out = pretraining_cases(store, recipe.seed)
    pictures = []
    complete_first = sorted(held_out or cases, key=lambda case: len(case.missing))
    for case, stored in islice(Damage().readable(complete_first, lambda case: store.image(case.name)), _SHOWN):
        image = window(stored, store.preparation.intensity, recipe.window)
        pictures.append(
            Picture(
                f"Reconstruction of {case.name}",
                reconstructor.reconstruct(image, recipe.seed).picture(store.preparation.spacing),
                f"{recipe.mask.ratio:.0%} of the patches were masked; only those are predicted.",
                [("masked", HIDDEN_COLOUR)],
            )
        )
    return pictures


def segmentation_pictures(runs: Mapping[str, Run], store: Store, split: str = "val") -> list[Picture]:
    """Scan, reference and each run's segmentation of the first cases of a split, in the store's spacing."""
    labelled = store.labelled(split) or store.labelled("train")
    segmentors = {name: Segmentor.load(run.path) for name, run in runs.items()}
    legend = [(label, label_colour(value)) for value, label in store.labels.items()]
    bounds = next(iter(runs.values())).recipe().window
    pictures = []

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        return store.image(case.name), store.label_map(case.name)

    for case, (stored, reference) in islice(Damage().readable(labelled, read), _SHOWN):
        columns: list[tuple[str, np.ndarray | None]] = [("scan", None), ("reference", reference)]
        for name, segmentor in segmentors.items():
            # windows without overlap, as in the validation, to save minutes
            columns.append((name, segmentor.prepared_label_map(prepared_case(store, case, stored), overlap=0.0)))
        image = window(stored, store.preparation.intensity, bounds)
        at = middle_of(reference, case.shape)
        png = segmentation_picture(display_range(image[0]), columns, store.preparation.spacing, at)
        caption = f"A {case.split} case, through the middle of its labels."
        pictures.append(Picture(f"Segmentation of {case.name}", png, caption, legend))
    return pictures


def prepared_case(store: Store, case: Case, stored: np.ndarray) -> PreparedScan:
    """A case of the store as a prepared scan, with the store's grid as its original one."""
    grid = Grid(case.shape, np.diag([*store.preparation.spacing, 1.0]))
    return PreparedScan(stored, grid, grid, (), Path(case.image[0]))

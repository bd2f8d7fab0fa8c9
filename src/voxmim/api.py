"""What voxmim does, as functions: each takes paths and plain settings, writes a folder, and says where.

The command line calls these functions and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.errors import RunError
from voxmim.networks.build import Encoder
from voxmim.networks.weights import load_encoder
from voxmim.recipe import load_recipe
from voxmim.report.reconstruct import reconstruct as _reconstruct
from voxmim.scans.phantom import write_cohort
from voxmim.scans.prepare import PrepareResult, prepare
from voxmim.segmentation import evaluate as evaluation
from voxmim.segmentation.predict import predict as _predict
from voxmim.segmentation.predict import scan_files
from voxmim.settings import Recipe
from voxmim.store import Store
from voxmim.studies.demo import demo
from voxmim.training.finetune import finetune as _finetune
from voxmim.training.pages import finetune_page, pretrain_page
from voxmim.training.pretrain import pretrain as _pretrain
from voxmim.training.run import ABOUT, RECIPE, Run

__all__ = [
    "Encoder",
    "PrepareResult",
    "demo",
    "evaluate",
    "finetune",
    "load_encoder",
    "phantom",
    "predict",
    "prepare",
    "pretrain",
    "reconstruct",
]
DEFAULT_RECIPE = "tiny"
Path_ = Path | str


def phantom(
    out: Path_,
    cases: int = 40,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
    kind: str = "trunk",
) -> Path:
    """Write a cohort of phantoms with labels, in the layout of the Medical Segmentation Decathlon.

    Args:
        out: a new folder.
        cases: how many.
        seed: of the anatomies and the split.
        on_case: called with the cases done and their number.
        kind: ``trunk``, a CT with six organs, or ``head``, an MR of four channels with a tumour.
    """
    write_cohort(Path(out), cases, seed, on_case, kind)
    return Path(out)


def pretrain(
    store: Path_,
    out: Path_,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Path:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    Args:
        store: folder of prepared scans.
        out: the run folder: new, or one that was stopped, with `resume`.
        recipe: name of a packaged recipe, or a YAML file; None takes ``tiny``.
        settings: what differs from the recipe, such as ``{"mask.ratio": 0.6, "pretrain.steps": 2000}``.
        resume: go on exactly where the run stopped, with its own settings.

    Returns:
        the run folder; it holds ``encoder.safetensors`` and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    chosen = (
        _resumed(out, recipe=recipe, **(settings or {})) if resume else load_recipe(recipe or DEFAULT_RECIPE, settings)
    )
    run = _pretrain(Store(store), Path(out), chosen, resume)
    pretrain_page(run)
    return run.path


def finetune(
    store: Path_,
    out: Path_,
    init: Path_ | None = None,
    labels: str | float | int | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Path:
    """Train a segmentor on the labelled train cases of a store, from a pre-trained encoder or from scratch.

    Args:
        store: folder of prepared scans with labels.
        out: the run folder: new, or one that was stopped, with `resume`.
        init: a pre-training's run folder or weights file; None starts from scratch.
        labels: labelled cases to use: a share (0.1), a number (12), or None for all.
        recipe: name of a packaged recipe, or a YAML file; None takes that of `init`'s run, or ``tiny``.
        settings: what differs from the recipe.
        resume: go on exactly where the run stopped, with its own settings.

    Returns:
        the run folder; it holds ``segmentor.safetensors`` and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    if resume:
        chosen = _resumed(out, recipe=recipe, init=init, labels=labels, **(settings or {}))
    else:
        own = None if init is None else Path(init) / RECIPE
        chosen = load_recipe(recipe or (own if own is not None and own.is_file() else DEFAULT_RECIPE), settings)
    share = None if labels is None else str(labels)
    run, _ = _finetune(Store(store), Path(out), chosen, None if init is None else Path(init), share, resume)
    finetune_page(run)
    return run.path


def evaluate(
    run: Path_,
    data: Path_,
    split: str = "test",
    tolerance_mm: float = 2.0,
    json_file: Path_ | None = None,
    csv_file: Path_ | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a segmentor in each scan's own geometry, with the position-only prior beside it.

    The result is kept in the run folder (``evaluation-SPLIT.json``) and shown in its report.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store or a folder of labelled scans.
        split: ``train``, ``val``, ``test``, or ``all`` of the labelled cases.
        tolerance_mm: of the normalised surface Dice.
        json_file: write the result there too.
        csv_file: write a row per case and label there.
        on_case: called with the cases done and their number.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    run = Path(run)
    if (run / ABOUT).is_file():
        Run.open(run, "finetune")
    result = evaluation.evaluate(run, Path(data), split, tolerance_mm, on_case)
    if json_file is not None:
        evaluation.write_json(Path(json_file), result)
    if csv_file is not None:
        evaluation.write_csv(Path(csv_file), result)
    if (run / ABOUT).is_file():
        evaluation.write_json(run / f"evaluation-{split}.json", result)
        finetune_page(Run.open(run))
    return result


def predict(
    run: Path_,
    scans: Sequence[Path_],
    out: Path_,
    probabilities: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Label scans: ``CASE.nii.gz`` for each, in the scan's own grid, affine and orientation.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files or folders.
        out: folder for the label maps.
        probabilities: write the probability of each label too.
        on_case: called with the scans done and their number.

    Returns:
        the label maps written.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return _predict(Path(run), [Path(scan) for scan in scans], Path(out), probabilities, on_case)


def reconstruct(
    run: Path_,
    scans: Sequence[Path_],
    out: Path_,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Show what a pre-trained network makes of hidden parts: a picture and three NIfTI volumes per scan.

    Args:
        run: a pre-training's run folder.
        scans: files or folders.
        out: folder for the results.
        seed: of the masks.
        on_case: called with the scans done and their number.

    Returns:
        the pictures written.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return _reconstruct(Path(run), scan_files([Path(scan) for scan in scans]), Path(out), seed, on_case)


def _resumed(out: Path_, **told: Any) -> Recipe:
    """The recipe of the run that goes on; nothing of it can be told anew."""
    anew = [name for name, value in told.items() if value is not None]
    if anew:
        raise RunError(f"{out}: a resumed run keeps its own settings; leave out {', '.join(anew)}.")
    return Run.open(out).recipe()

"""What voxmim does, as functions: each takes paths and plain settings, writes a folder, and says where.

The command line calls these functions and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.classification import evaluate as scan_evaluation
from voxmim.classification.evaluate import result_rows
from voxmim.classification.predict import predict as _predict_classes
from voxmim.errors import RunError, nearest
from voxmim.networks.build import Encoder
from voxmim.networks.transfer import Transfer
from voxmim.networks.weights import holds_classifier, load_encoder
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
from voxmim.training.classify import classify as _classify
from voxmim.training.classify_page import classify_page
from voxmim.training.finetune import finetune as _finetune
from voxmim.training.foreign_weights import export_encoder, import_encoder, scans_like
from voxmim.training.pages import finetune_page, pretrain_page
from voxmim.training.plan import Plan
from voxmim.training.plan import plan as _plan
from voxmim.training.pretrain import pretrain as _pretrain
from voxmim.training.processes import first_process
from voxmim.training.run import ABOUT, RECIPE, Run
from voxmim.training.transfer import Start, settings_from

__all__ = [
    "Encoder",
    "PrepareResult",
    "demo",
    "evaluate",
    "export_weights",
    "finetune",
    "import_weights",
    "load_encoder",
    "phantom",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "reconstruct",
    "result_rows",
]
DEFAULT_RECIPE = "tiny"
TASKS = ("segmentation", "classification")
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
    init: Path_ | None = None,
) -> Path:
    """Pre-train an encoder on the train and unlabelled scans of a store; labels are never read.

    Args:
        store: folder of prepared scans.
        out: the run folder: new, or one that was stopped, with `resume`.
        recipe: name of a packaged recipe, or a YAML file; None takes that of `init`'s run, or ``tiny``.
        settings: what differs from the recipe, such as ``{"mask.ratio": 0.6, "pretrain.steps": 2000}``.
        resume: go on exactly where the run stopped, with its own settings.
        init: a pre-training's run folder or weights file to start from, whose encoder takes the place of the recipe's;
            a patch that `settings` tell is kept, and the weights are made to fit it. None starts from nothing.

    Returns:
        the run folder; it holds ``encoder.safetensors`` and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    start = None if init is None else Path(init)
    if resume:
        chosen = _resumed(out, recipe=recipe, init=init, **(settings or {}))
    else:
        chosen = _started(recipe, start, settings, pretext=recipe is None)
    run = _pretrain(Store(store), Path(out), chosen, resume, start)
    if first_process():
        pretrain_page(run)
    return run.path


def plan(store: Path_, recipe: str | Path | None = None, settings: Mapping[str, Any] | None = None) -> Plan:
    """What a pre-training would take, from a trial of some of its steps; nothing of it is kept.

    Args:
        store: folder of prepared scans.
        recipe: name of a packaged recipe, or a YAML file; None takes ``tiny``.
        settings: what differs from the recipe.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return _plan(Store(store), load_recipe(recipe or DEFAULT_RECIPE, settings))


def finetune(
    store: Path_,
    out: Path_,
    init: Path_ | None = None,
    labels: str | float | int | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    task: str | None = None,
    classes: Path_ | None = None,
) -> Path:
    """Train a segmentor, or a classifier of whole scans, from a pre-trained encoder or from scratch.

    Args:
        store: folder of prepared scans, with labels for a segmentation.
        out: the run folder: new, or one that was stopped, with `resume`.
        init: a pre-training's run folder or weights file, whose encoder takes the place of the recipe's; a patch that
            `settings` tell is kept, and the weights are made to fit it. None starts from scratch.
        labels: labelled cases to use: a share (0.1), a number (12), or None for all.
        recipe: name of a packaged recipe, or a YAML file; None takes that of `init`'s run, or ``tiny``.
        settings: what differs from the recipe.
        resume: go on exactly where the run stopped, with its own settings.
        task: ``segmentation`` (also None) or ``classification``.
        classes: for a classification, a CSV file with the columns ``case`` and ``class``.

    Returns:
        the run folder; it holds ``segmentor.safetensors`` or ``classifier.safetensors``, and ``report.html``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    start = None if init is None else Path(init)
    if resume:
        told = {"init": init, "labels": labels, "task": task, "classes": classes}
        chosen, task = _resumed(out, recipe=recipe, **told, **(settings or {})), _task(Path(out))
    else:
        chosen = _started(recipe, start, settings)
    share = None if labels is None else str(labels)
    if task not in (None, *TASKS):
        raise RunError(f"'{task}' is no task of a fine-tuning ({', '.join(TASKS)}){nearest(str(task), TASKS) or '.'}")
    if task == "classification":
        table = None if classes is None else Path(classes)
        run, _ = _classify(Store(store), Path(out), chosen, table, start, share, resume)
    else:
        _refuse_classes(classes)
        run, _ = _finetune(Store(store), Path(out), chosen, start, share, resume)
    if first_process():
        (classify_page if task == "classification" else finetune_page)(run)
    return run.path


def evaluate(
    run: Path_,
    data: Path_,
    split: str = "test",
    tolerance_mm: float = 2.0,
    json_file: Path_ | None = None,
    csv_file: Path_ | None = None,
    on_case: Callable[[int, int], None] | None = None,
    classes: Path_ | None = None,
) -> dict[str, Any]:
    """Score a segmentor in each scan's own geometry, with the position-only prior beside it, or a classifier.

    The result is kept in the run folder (``evaluation-SPLIT.json``) and shown in its report.

    Args:
        run: a fine-tuning's run folder or weights file.
        data: a store or a folder of labelled scans (for a classifier, of scans).
        split: ``train``, ``val``, ``test``, or ``all`` of the labelled cases.
        tolerance_mm: of the normalised surface Dice.
        json_file: write the result there too.
        csv_file: write a row per case and label there, or of a classifier a row per case.
        on_case: called with the cases done and their number.
        classes: for a classifier, a CSV file of other classes than those the run was given.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    run = Path(run)
    if (run / ABOUT).is_file():
        Run.open(run, "finetune")
    if _task(run) == "classification":
        return _evaluate_classes(run, Path(data), split, json_file, csv_file, on_case, classes)
    _refuse_classes(classes)
    result = evaluation.evaluate(run, Path(data), split, tolerance_mm, on_case)
    if json_file is not None:
        evaluation.write_json(Path(json_file), result)
    if csv_file is not None:
        evaluation.write_csv(Path(csv_file), result)
    if (run / ABOUT).is_file():
        evaluation.write_json(run / f"evaluation-{split}.json", result)
        finetune_page(Run.open(run))
    return result


def _evaluate_classes(
    run: Path,
    data: Path,
    split: str,
    json_file: Path_ | None,
    csv_file: Path_ | None,
    on_case: Callable[[int, int], None] | None,
    classes: Path_ | None,
) -> dict[str, Any]:
    """`evaluate` of a classifier."""
    own = Run.open(run) if (run / ABOUT).is_file() else None
    listed, table = None if own is None else own.about["listed"], None if classes is None else Path(classes)
    result = scan_evaluation.evaluate(run, data, split, listed, table, on_case)
    if json_file is not None:
        evaluation.write_json(Path(json_file), result)
    if csv_file is not None:
        scan_evaluation.write_csv(Path(csv_file), result)
    if own is not None:
        evaluation.write_json(run / f"evaluation-{split}.json", result)
        classify_page(own)
    return result


def predict(
    run: Path_,
    scans: Sequence[Path_],
    out: Path_,
    probabilities: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Label scans: ``CASE.nii.gz`` for each, in the scan's own grid; or tell their classes in ``predictions.csv``.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files or folders.
        out: folder for the label maps, or for the table of a classifier.
        probabilities: write the probability of each label, or of each region, too; those of classes are always written.
        on_case: called with the scans done and their number.

    Returns:
        the label maps written, or the table.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    if _task(Path(run)) == "classification":
        return _predict_classes(Path(run), [Path(scan) for scan in scans], Path(out), on_case)
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


def import_weights(
    file: Path_,
    out: Path_,
    like: Path_ | None = None,
    spacing: tuple[float, float, float] | None = None,
    intensity: str | None = None,
    channels: Sequence[str] | None = None,
    licence: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Transfer:
    """Make an encoder of another package's checkpoint: MONAI's ViT, MAE or Swin UNETR, or a 2D masked autoencoder.

    Args:
        file: the checkpoint, pickled by torch or safetensors.
        out: a new folder, which gets ``encoder.safetensors``.
        like: a store that the scans of these weights are like; what follows is told where they are not, or without it.
        spacing: voxel size in mm along X, Y, Z.
        intensity: ``ct`` or ``mr``.
        channels: the name of each channel.
        licence: a note on whose the weights are and what may be done with them; it goes along with them.
        settings: what the file does not tell, such as ``{"vit.heads": 12, "crop": [96, 96, 96]}``.

    Returns:
        the account of what moved.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    scans = scans_like(None if like is None else Path(like), spacing, intensity, channels)
    return import_encoder(Path(file), Path(out), scans, settings or {}, licence)


def export_weights(run: Path_, out: Path_) -> str:
    """Write an encoder under the names of MONAI's `UNETR` (a ViT) or `SwinUNETR` (a Swin).

    Args:
        run: a pre-training's run folder or weights file.
        out: a ``.safetensors`` or ``.pt`` file.

    Returns:
        the Python lines that make MONAI's network and load the weights.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    return export_encoder(Path(run), Path(out))


def _started(
    recipe: str | Path | None, init: Path | None, settings: Mapping[str, Any] | None, pretext: bool = True
) -> Recipe:
    """The recipe of a new run: what is told comes before what the weights of `init` are, and that before the recipe."""
    if init is None:
        return load_recipe(recipe or DEFAULT_RECIPE, settings)
    own = init / RECIPE
    known = settings_from(Start.read(init).metadata, pretext)
    return load_recipe(recipe or (own if own.is_file() else DEFAULT_RECIPE), {**known, **(settings or {})})


def _resumed(out: Path_, **told: Any) -> Recipe:
    """The recipe of the run that goes on; nothing of it can be told anew."""
    anew = [name for name, value in told.items() if value is not None]
    if anew:
        raise RunError(f"{out}: a resumed run keeps its own settings; leave out {', '.join(anew)}.")
    return Run.open(out).recipe()


def _task(run: Path) -> str:
    """``segmentation`` or ``classification``: what a fine-tuning's run folder, or a weights file, is for."""
    if (run / ABOUT).is_file():
        return str(Run.open(run).about.get("task", "segmentation"))
    return "classification" if holds_classifier(run) else "segmentation"


def _refuse_classes(classes: Path_ | None) -> None:
    if classes is not None:
        raise RunError(f"{classes}: classes of whole scans are for a classification, which this is not; leave it out.")

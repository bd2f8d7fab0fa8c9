"""Results of a training: scores, label maps, reconstructions, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from voxmim.export.embed import Embeddings
    from voxmim.tasks.given import Written

OnCase = Callable[[int, int], None]


def evaluate(
    run: Path | str,
    data: Path | str,
    split: Literal["train", "val", "test", "all"] = "test",
    tolerance_mm: float = 2.0,
    json_file: Path | str | None = None,
    csv_file: Path | str | None = None,
    on_case: OnCase | None = None,
    classes: Path | str | None = None,
    values: Path | str | None = None,
    ensemble: Sequence[Path | str] = (),
    all_components: bool = False,
) -> dict[str, Any]:
    """Score a segmentor, classifier or regressor.

    A segmentor is scored by Dice, 95 % Hausdorff distance and surface Dice in each scan's own geometry, next to a
    position-only prior, the mean training label map. A classifier is scored by AUROC, a regressor by its mean absolute
    error. The result is also written to the run folder (evaluation-SPLIT.json) and shown in its report. The exit status
    is 1 if a case is left out.

    Args:
        run: run folder or weights file of a fine-tuning.
        data: store, or folder or list of labelled scans.
        split: which cases to score.
        tolerance_mm: tolerance of the surface Dice in mm.
        json_file: also write the result to this JSON file.
        csv_file: write one row per case and label to this CSV file (for a classifier or regressor, one row per case).
        on_case: called with the number of cases done and their total.
        classes: for a classifier, CSV file of the classes to score. Default: the table it was trained with.
        values: for a regressor, CSV file of the values to score. Default: the table it was trained with.
        ensemble: further runs, such as those of other folds; their probabilities are averaged with those of the first
            run. The result is then not written to the run folder.
        all_components: keep the small components of all labels in predicted label maps. Default: they are removed from
            the labels for which that raised the Dice of the validation cases. The result of this, too, is not written
            to the run folder.

    Returns:
        The result, as in the JSON file.

    Raises:
        VoxmimError: the run or the data cannot be used.
    """
    from voxmim.files import write_json
    from voxmim.report.run_page import write_run_page
    from voxmim.tasks.registry import task_of
    from voxmim.training.run import ABOUT, Run

    run, others = Path(run), [Path(other) for other in ensemble]
    own = Run.open(run, "finetune") if (run / ABOUT).is_file() else None
    task, about = task_of(run), {} if own is None else own.about
    table = task.table_of(classes, values)
    result = task.evaluate(run, Path(data), split, tolerance_mm, on_case, others, about, table, all_components)
    if json_file is not None:
        write_json(Path(json_file), result)
    if csv_file is not None:
        task.write_csv(Path(csv_file), result)
    if own is not None and not others and not all_components:
        write_json(run / f"evaluation-{split}.json", result)
        write_run_page(own)
    return result


def predict(
    run: Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    probabilities: bool = False,
    on_case: OnCase | None = None,
    label_format: Literal["nifti", "dicom-seg"] = "nifti",
    ensemble: Sequence[Path | str] = (),
    all_components: bool = False,
) -> Written:
    """Predict the label maps of new scans, or their classes or values.

    A label map has the grid, affine and orientation of its scan. On the command line, several runs make an ensemble:
    RUN RUN RUN SCAN. The exit status is 1 if a scan is left out.

    Args:
        run: run folder or weights file of a fine-tuning.
        scans: scans, or folders or lists (.csv, .json) of scans, as for 'prepare'.
        out: folder for the label maps (CASE.nii.gz), or for predictions.csv of a classifier or regressor. If scans in
            different folders have the same name, the file is FOLDER-CASE.nii.gz.
        probabilities: also write the probability of each label or region.
        on_case: called with the number of scans done and their total.
        label_format: format of the label maps: NIfTI, or DICOM segmentations (CASE.dcm) of scans in DICOM.
        ensemble: further runs, such as those of other folds; their probabilities are averaged with those of the first
            run.
        all_components: keep the small components of all labels. Default: they are removed from the labels for which
            that raised the Dice of the validation cases.

    Returns:
        The label maps written, or the table; `left_out` of this list names the scans that could not be used.

    Raises:
        VoxmimError: the run or a scan cannot be used.
    """
    from voxmim.tasks.registry import task_of

    run, paths, others = Path(run), [Path(scan) for scan in scans], [Path(other) for other in ensemble]
    return task_of(run).predict(run, paths, Path(out), probabilities, on_case, label_format, others, all_components)


def reconstruct(
    run: Path | str, scans: Sequence[Path | str], out: Path | str, seed: int = 0, on_case: OnCase | None = None
) -> Written:
    """Show how a pre-trained network reconstructs masked scans.

    It writes a picture and three NIfTI volumes per scan. The exit status is 1 if a scan is left out.

    Args:
        run: run folder of a pre-training.
        scans: scans, or folders or lists (.csv, .json) of scans, as for 'prepare'.
        out: folder for the results.
        seed: seed of the masks.
        on_case: called with the number of scans done and their total.

    Returns:
        The pictures written; `left_out` of this list names the scans that could not be used.

    Raises:
        VoxmimError: the run cannot be used, or no scan can.
    """
    from voxmim.report.reconstruct import reconstruct

    return reconstruct(Path(run), [Path(scan) for scan in scans], Path(out), seed, on_case)


def embed(
    run: Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    nearest: int = 0,
    on_case: OnCase | None = None,
) -> Embeddings:
    """Compute one feature vector per scan, to search, cluster or compare scans.

    The vector is the mean of the encoder's bottleneck features over the body. The file has one row per scan, with the
    columns case and embedding; pandas.read_parquet reads it. The exit status is 1 if a scan is left out.

    Args:
        run: run folder of a training, or its weights file.
        scans: scans, or folders or lists (.csv, .json) of scans, as for 'prepare'.
        out: file to write, ending in .parquet.
        nearest: number of nearest neighbours to print for each scan, by cosine similarity.
        on_case: called with the number of scans done and their total.

    Returns:
        The file, the number and width of its vectors, and the neighbours.

    Raises:
        VoxmimError: the run or a scan cannot be used, or a package is missing.
    """
    from voxmim.export.embed import embed

    return embed(Path(run), [Path(scan) for scan in scans], Path(out), nearest, on_case)

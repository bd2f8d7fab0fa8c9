"""Results of a training: scores, label maps, reconstructions, vectors of scans."""

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
) -> dict[str, Any]:
    """Score a segmentor, classifier or regressor.

    A segmentor by Dice, 95 % Hausdorff distance and surface Dice, a classifier by AUROC, a regressor by its mean
    absolute error. Labels are scored in each scan's own geometry, beside a prior that knows positions only. The result
    is also written to the run folder (evaluation-SPLIT.json) and shown in its report. The exit status is 1 if a case is
    left out.

    Args:
        run: run folder or weights file of a fine-tuning.
        data: store, or folder or list of labelled scans.
        split: which cases to score.
        tolerance_mm: tolerance of the surface Dice in mm.
        json_file: write the result to this JSON file too.
        csv_file: write one row per case and label to this CSV file (otherwise one row per case).
        on_case: called with the number of cases done and their total.
        classes: for a classifier, CSV file of the classes to score. Default: the table it was trained with.
        values: for a regressor, CSV file of the values to score. Default: the table it was trained with.
        ensemble: further runs whose probabilities are averaged with the first one's, such as those of other folds; the
            result is then kept only where asked.

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
    result = task.evaluate(run, Path(data), split, tolerance_mm, on_case, others, about, table)
    if json_file is not None:
        write_json(Path(json_file), result)
    if csv_file is not None:
        task.write_csv(Path(csv_file), result)
    if own is not None and not others:
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
) -> Written:
    """Predict the label maps of new scans, or their classes or values.

    A label map has the grid, affine and orientation of its scan. On the command line, further runs may follow the
    first: RUN RUN RUN SCAN. The exit status is 1 if a scan is left out.

    Args:
        run: run folder or weights file of a fine-tuning.
        scans: scans, or folders or lists (.csv, .json) of them, as 'prepare' takes them.
        out: folder for the label maps (CASE.nii.gz; scans of one name in several folders get the folder's name in
            front, FOLDER-CASE.nii.gz), or for predictions.csv of a classifier or regressor.
        probabilities: write the probability of each label, or region, too.
        on_case: called with the number of scans done and their total.
        label_format: write label maps as NIfTI, or as DICOM segmentations (CASE.dcm), which need scans in DICOM.
        ensemble: further runs whose probabilities are averaged with the first one's, such as those of other folds.

    Returns:
        The label maps written, or the table; `left_out` of this list names the scans that could not be used.

    Raises:
        VoxmimError: the run or a scan cannot be used.
    """
    from voxmim.tasks.registry import task_of

    run, paths, others = Path(run), [Path(scan) for scan in scans], [Path(other) for other in ensemble]
    return task_of(run).predict(run, paths, Path(out), probabilities, on_case, label_format, others)


def reconstruct(
    run: Path | str, scans: Sequence[Path | str], out: Path | str, seed: int = 0, on_case: OnCase | None = None
) -> Written:
    """Show how a pre-trained network reconstructs masked parts of scans.

    A picture and three NIfTI volumes per scan. The exit status is 1 if a scan is left out.

    Args:
        run: run folder of a pre-training.
        scans: scans, or folders or lists (.csv, .json) of them, as 'prepare' takes them.
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
    """Turn each scan into one vector, to search, group or compare scans.

    The vector is the mean of the encoder's bottleneck features over the body. The file has one row per scan, with the
    columns case and embedding; pandas.read_parquet reads it. The exit status is 1 if a scan is left out.

    Args:
        run: run folder of a training, or its weights file.
        scans: scans, or folders or lists (.csv, .json) of them, as 'prepare' takes them.
        out: file to write, ending in .parquet.
        nearest: print so many nearest neighbours of each scan, by the cosine of the vectors.
        on_case: called with the number of scans done and their total.

    Returns:
        The file, how many vectors of which width it has, and the neighbours.

    Raises:
        VoxmimError: the run or a scan cannot be used, or a package is missing.
    """
    from voxmim.export.embed import embed

    return embed(Path(run), [Path(scan) for scan in scans], Path(out), nearest, on_case)

"""Evaluation of a segmentor: its label maps against the references, in each scan's own geometry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim import files
from voxmim.doctor.reading import read_label
from voxmim.errors import VoxmimError
from voxmim.images.geometry import resample_labels
from voxmim.sources import SourceCase
from voxmim.sources.source import ignored_value
from voxmim.tasks.metrics import MAIN, METRICS, cells, convention, headings
from voxmim.tasks.scans import Progress, channel_order, for_each, labelled_cases, source_in_fold
from voxmim.tasks.segmentation.predict import CLEANED, Segmentor
from voxmim.tasks.segmentation.prior import PRIOR, PositionPrior
from voxmim.tasks.segmentation.scores import Scores, score_case, summarise, without
from voxmim.tasks.task import ResultTable
from voxmim.text import counted
from voxmim.weights.files import find_weights


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    tolerance_mm: float = 2.0,
    on_case: Progress | None = None,
    others: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    table: Path | None = None,
    all_components: bool = False,
) -> dict[str, Any]:
    """Score a segmentor and the position-only prior.

    Scans are read from their files and segmented as in `predict`; nothing is scored in resampled space. Channels and
    labels of the data are matched with the segmentor's by name. Cases that cannot be used are left out.

    The arguments are those of `Task.evaluate`; `about` and `table` are for other tasks.

    Returns:
        the result of `scores.summarise`, with ``run``, ``data``, ``split``, ``tolerance_mm``, ``convention``,
        ``left_out`` (cases that lack a channel or cannot be used), ``not_learned`` (labels of the data that the
        segmentor does not know), ``remove_small_components`` (labels that were cleaned), ``not_scored``
        (structures that the data do not label), ``ignored`` (fraction of voxels that nobody annotated, by case),
        ``partly_annotated`` (the annotated labels of cases that lack others) and, if the run has one, ``prior`` (the
        same figures for the position-only prior).

    Raises:
        StoreError: there is no labelled case in this split, or no label that the segmentor knows.
        SourceError: the channels differ from the segmentor's.
        ScanError: no case can be used.
        WeightsError: the run has no segmentor.
        VoxmimError: the tolerance is negative.
    """
    if not tolerance_mm >= 0:
        raise VoxmimError(f"tolerance {tolerance_mm} mm: it must be 0 or more; change it.")
    segmentor = Segmentor.load(run, *others, all_components=all_components)
    source = source_in_fold(data, segmentor.metadata)
    cases, lacking = labelled_cases(source, split)
    order = channel_order(segmentor.preparation.channels, source.channels, data)
    values, parts, not_learned = segmentor.structures.match(source.labels, data)
    ignore = ignored_value(source.labels)
    ignored: dict[str, float] = {}
    partly = {case.name: case.annotated for case in cases if case.annotated is not None}
    prior_file = find_weights(run, "segmentor").parent / PRIOR
    prior = PositionPrior.load(prior_file) if prior_file.is_file() else None

    def score(name: str, case: SourceCase) -> list[dict[str, Scores]]:
        """The scores of the segmentor and, if there is one, of the prior."""
        assert case.label is not None
        scan = segmentor.prepare(case.images, order)
        label = read_label(case.label, scan.original, case.images[0])
        unknown = label == ignore
        reference = without(values[label], unknown)
        if unknown.any():
            ignored[name] = float(unknown.mean())
        annotated = None if case.annotated is None else [int(values[value]) for value in case.annotated]
        known = segmentor.structures.parts_of(annotated)
        scored_parts = {part: values for part, values in parts.items() if part in known}
        label_maps = [segmentor.label_map(scan)]
        if prior is not None:
            label_maps.append(resample_labels(prior.predict(scan.grid.shape), scan.grid, scan.original))
        return [
            score_case(without(label_map, unknown), reference, scored_parts, scan.original.spacing, tolerance_mm)
            for label_map in label_maps
        ]

    scores, unusable = for_each({case.name: case for case in cases}, score, on_case)
    result = {
        "run": str(run),
        "data": str(data),
        "split": split,
        "tolerance_mm": tolerance_mm,
        "convention": convention(),
        "left_out": lacking + unusable,
        "not_learned": not_learned,
        CLEANED: [segmentor.structures.labels[value] for value in segmentor.cleaned],
        "ignored": ignored,
        "partly_annotated": {
            name: [source.labels.get(value, f"label {value}") for value in annotated]
            for name, annotated in partly.items()
        },
        "not_scored": [name for name in segmentor.structures.parts if name not in parts],
        **summarise({name: found[0] for name, found in scores.items()}),
    }
    if prior is not None:
        result["prior"] = summarise({name: found[1] for name, found in scores.items()})
    return result


def result_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """The scores of each label or region, beside those of the position-only prior."""
    prior, main = result.get("prior"), METRICS[MAIN]
    rows, below = [], []
    for name, scores in [("mean", result["mean"]), *result["labels"].items()]:
        beside = None if prior is None else (prior["mean"] if name == "mean" else prior["labels"][name])[MAIN]
        rows.append([name, *cells(scores), main.text(beside)])
        if beside is not None and scores[MAIN] is not None and scores[MAIN] < beside:
            below.append(name)
    header = ["label", *headings(result["tolerance_mm"]), f"prior's {main.title}"]
    rows += [[f"{name} (never learned)", *["–"] * (len(header) - 1)] for name in result.get("not_learned", ())]
    note = [
        result["convention"],
        "The prior knows positions only: it is the mean training label map, and never sees the image.",
    ]
    if below:
        note.insert(0, f"Dice below the prior's: {', '.join(below)}; train longer, or check the labels.")
    if result.get(CLEANED):
        note.append(f"Small components were removed from the predictions of {', '.join(result[CLEANED])}.")
    if result.get("not_scored"):
        note.append(f"Not scored, since the data do not label them: {', '.join(result['not_scored'])}.")
    if ignored := result.get("ignored"):
        voxels = f"{100 * sum(ignored.values()) / len(ignored):.2g} % of the voxels of {counted(len(ignored), 'case')}"
        note.append(f"Not scored, since nobody annotated them: {voxels}.")
    if partly := result.get("partly_annotated"):
        listed = "; ".join(f"{case} ({', '.join(labels) or 'none'})" for case, labels in partly.items())
        note.append(f"Only these labels are scored in cases that lack the annotation of others: {listed}.")
    if result.get("left_out"):
        note.append(f"Left out, since they lack a channel or cannot be used: {', '.join(result['left_out'])}.")
    title = f"Results on {counted(len(result['cases']), 'case')} of the split '{result['split']}'"
    return [ResultTable(title, header, rows, " ".join(note))]


def write_csv(file: Path, result: Mapping[str, Any]) -> None:
    """Write an evaluation as CSV: a row per case and label."""
    rows = (
        {"case": case["case"], "label": label, **{metric: case[metric][label] for metric in METRICS}}
        for case in result["cases"]
        for label in case[MAIN]
    )
    files.write_csv(file, rows, ["case", "label", *METRICS])

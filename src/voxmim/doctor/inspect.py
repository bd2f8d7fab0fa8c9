"""Every file of a source read once and judged: what is wrong, what will be done, and what the scans are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.doctor.cohort import judge_cohort
from voxmim.doctor.facts import PERCENTILES, Facts
from voxmim.doctor.judge import judge_case
from voxmim.doctor.modality import guess_intensity
from voxmim.findings import Finding, in_order, sound
from voxmim.images.geometry import to_ras
from voxmim.images.volume import Volume
from voxmim.sources import Source, SourceCase, open_source
from voxmim.workers import run

PICTURED = 48  # scans at most that a middle slice is kept of
_SIDE = 192  # pixels at most along a side of it


@dataclass(frozen=True, eq=False)
class Slice:
    """The middle axial slice of a case: (X, Y) float32 of the first channel, its labels, and its pixel size in mm."""

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in a source.

    Attributes:
        source: the folder.
        files: every file of every case, and what the source's own findings are of.
        findings: by file.
        facts: of each case that is not left out, by name.
        intensity: ``ct`` or ``mr``, as guessed.
        slices: of some of these cases, spread evenly.
    """

    source: Source
    files: list[str]
    findings: list[Finding]
    facts: dict[str, Facts]
    intensity: str
    slices: dict[str, Slice] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is left out and nothing is in doubt."""
        return sound(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        of_file: dict[str, list[dict[str, str]]] = {file: [] for file in self.files}
        for finding in self.findings:
            told = {"kind": finding.kind, "reason": finding.reason, "action": finding.action}
            of_file[finding.file].append(told)
        scans = [{"file": file, "findings": findings} for file, findings in of_file.items()]
        return {"scans": scans, "fingerprint": self.fingerprint()}

    def complete(self) -> list[Facts]:
        """The facts of the cases that lack no channel, and so tell which values are of which."""
        return [facts for facts in self.facts.values() if len(facts.percentiles) == len(self.source.channels)]

    def fingerprint(self) -> dict[str, Any]:
        """What the scans are like, in numbers; those left out do not count."""
        each = list(self.facts.values())
        labelled = [facts for facts in each if facts.labels]
        values = sorted({value for facts in labelled for value in facts.labels})
        return {
            "cases": len(each),
            "labelled": len(labelled),
            "intensity": self.intensity,
            "channels": list(self.source.channels),
            "orientations": dict(Counter(facts.orientation for facts in each).most_common()),
            "spacing_mm": _spread([facts.spacing for facts in each]),
            "shape": _spread([facts.shape for facts in each]),
            "intensity_percentiles": {
                channel: dict(zip(map("{:g}".format, PERCENTILES), _spread(seen), strict=True))
                for index, channel in enumerate(self.source.channels)
                if (seen := [facts.percentiles[index] for facts in self.complete()])
            },
            "label_volumes_ml": {
                self.source.labels.get(value, f"label {value}"): _volumes(labelled, value) for value in values
            },
        }


def inspect_source(
    path: Path | str,
    workers: int | None = None,
    match_channels: bool = False,
    on_case: Callable[[int, int], None] | None = None,
    scheduler: str | None = None,
) -> Inspection:
    """Read every file of a source once, and judge it.

    Args:
        path: see `open_source`.
        workers: processes; None takes one per CPU core, 1 stays in this process.
        match_channels: channels of another grid are to be interpolated on that of the first.
        on_case: called with the cases done and their number.
        scheduler: address of a Dask scheduler, whose workers read the files instead.

    Raises:
        SourceError: the source cannot be used.
        WorkerError: a worker process died, or the cluster doesn't answer.
    """
    source = open_source(path)
    step = max(1, -(-len(source.cases) // PICTURED))
    pictured = {case.name for case in source.cases[::step]}
    tasks = [(case, case.name in pictured) for case in source.cases]
    findings, facts, slices = list(source.findings), {}, {}
    act = partial(_inspect_case, channels=source.channels, known=tuple(source.labels), match=match_channels)
    with closing(run(act, tasks, workers, scheduler)) as outcomes:
        for done, (name, found, seen, middle) in enumerate(outcomes, start=1):
            findings += found
            if seen is not None:
                facts[name] = seen
            if middle is not None:
                slices[name] = middle
            if on_case is not None:
                on_case(done, len(tasks))
    findings += judge_cohort(source.cases, facts, source.channels, source.labels)
    gone = {finding.file for finding in findings if finding.action == "left out"}
    kept = [case for case in source.cases if case.name in facts and not gone & set(map(str, case.images))]
    return Inspection(
        source,
        files=sorted({*_files(source.cases), *(finding.file for finding in findings)}),
        findings=in_order(findings),
        facts={case.name: facts[case.name] for case in kept},
        intensity=guess_intensity([facts[case.name] for case in source.cases if case.name in facts], source.channels),
        slices={case.name: slices[case.name] for case in kept if case.name in slices},
    )


def _files(cases: Sequence[SourceCase]) -> list[str]:
    return [str(file) for case in cases for file in (*case.images, case.label) if file is not None]


def _inspect_case(
    task: tuple[SourceCase, bool], channels: Sequence[str], known: Sequence[int], match: bool
) -> tuple[str, tuple[Finding, ...], Facts | None, Slice | None]:
    case, pictured = task
    judged = judge_case(case, channels, known, match)
    middle = None if judged.image is None or not pictured else _middle(judged.image, judged.label)
    return case.name, judged.findings, judged.facts, middle


def _middle(image: Volume, label: np.ndarray | None) -> Slice:
    """The axial slice in the middle, or, of a case with labels, the one in the middle of them."""
    ras = to_ras(Volume(image.array[:1], image.affine)).array[0]
    labels = None if label is None else to_ras(Volume(label[None], image.affine)).array[0]
    at = ras.shape[2] // 2
    if labels is not None and labels.any():
        at = int(np.median(np.flatnonzero(labels.any(axis=(0, 1)))))
    step = max(1, -(-max(ras.shape[:2]) // _SIDE))
    x, y, _ = to_ras(Volume(image.array[:1, :1, :1, :1], image.affine)).spacing * step
    shown = None if labels is None else np.ascontiguousarray(labels[::step, ::step, at])
    return Slice(ras[::step, ::step, at].astype(np.float32), shown, (float(x), float(y)))


def _volumes(labelled: Sequence[Facts], value: int) -> dict[str, float]:
    """In how many cases a label is, and its volumes there."""
    seen = [[facts.labels[value].volume / 1000] for facts in labelled if value in facts.labels]
    return {"cases": len(seen), **_spread(seen)[0]}


def _spread(rows: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Of each column of the rows, the least, the median and the greatest."""
    return [
        {"min": _rounded(min(column)), "median": _rounded(float(np.median(column))), "max": _rounded(max(column))}
        for column in zip(*rows, strict=True)
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")

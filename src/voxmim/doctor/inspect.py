"""Inspecting a source: findings on its files, and statistics of its scans."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.doctor.cohort import judge_cohort, left_out
from voxmim.doctor.facts import PERCENTILES, Facts
from voxmim.doctor.judge import judge_case, process_died
from voxmim.doctor.modality import guess_intensity
from voxmim.findings import Finding, in_order, sound
from voxmim.images.geometry import to_ras
from voxmim.images.volume import Volume
from voxmim.sources import Source, SourceCase, open_source
from voxmim.workers import run

MAX_SLICES = 48  # scans with a middle slice
_MAX_SIDE = 192  # pixels of a slice


@dataclass(frozen=True, eq=False)
class Slice:
    """The middle axial slice of a case: (X, Y) float32 of the first channel, its labels, and its pixel size in mm."""

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Inspection:
    """The result of an inspection."""

    source: Source
    files: list[str]  # all files of all cases, and other files with a finding
    findings: list[Finding]  # sorted by file
    facts: dict[str, Facts]  # of the cases that are not left out, by name
    intensity: str  # ``ct`` or ``mr``, guessed
    slices: dict[str, Slice] = field(default_factory=dict)  # of evenly spaced cases

    @property
    def sound(self) -> bool:
        """Whether nothing is left out and no finding is unresolved."""
        return sound(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        of_file: dict[str, list[dict[str, str]]] = {file: [] for file in self.files}
        for each in self.findings:
            of_file[each.file].append({"kind": each.kind, "reason": each.reason, "action": each.action})
        scans = [{"file": file, "findings": findings} for file, findings in of_file.items()]
        return {"scans": scans, "fingerprint": self.fingerprint()}

    def complete(self) -> list[Facts]:
        """The facts of the cases with all channels."""
        return [facts for facts in self.facts.values() if len(facts.percentiles) == len(self.source.channels)]

    def fingerprint(self) -> dict[str, Any]:
        """Statistics of the scans that are not left out."""
        scans = list(self.facts.values())
        labelled = [facts for facts in scans if facts.labels]
        values = sorted({value for facts in labelled for value in facts.labels})
        return {
            "cases": len(scans),
            "labelled": len(labelled),
            "intensity": self.intensity,
            "channels": list(self.source.channels),
            "orientations": dict(Counter(facts.orientation for facts in scans).most_common()),
            "spacing_mm": _summaries([facts.spacing for facts in scans]),
            "shape": _summaries([facts.shape for facts in scans]),
            "intensity_percentiles": {
                channel: dict(zip(map("{:g}".format, PERCENTILES), _summaries(percentiles), strict=True))
                for index, channel in enumerate(self.source.channels)
                if (percentiles := [facts.percentiles[index] for facts in self.complete()])
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
    """Read all files of a source once; see `voxmim.inspect` for arguments and errors."""
    source = open_source(path)
    with_slice = {case.name for case in source.cases[:: max(1, -(-len(source.cases) // MAX_SLICES))]}
    findings, facts, slices = list(source.findings), {}, {}
    inspect_case = partial(_inspect_case, channels=source.channels, known=tuple(source.labels), match=match_channels)
    with closing(run(inspect_case, source.cases, workers, scheduler, _on_death)) as outcomes:
        for done, (name, case_findings, measured, middle) in enumerate(outcomes, start=1):
            findings += case_findings
            if measured is not None:
                facts[name] = measured
            if middle is not None and name in with_slice:
                slices[name] = middle
            if on_case is not None:
                on_case(done, len(source.cases))
    compared = judge_cohort(source.cases, facts, source.channels, source.labels)
    dropped = left_out(source.cases, compared)
    kept = [case.name for case in source.cases if case.name in facts and case.name not in dropped]
    files = {str(file) for case in source.cases for file in case.files}
    findings = in_order([*findings, *compared])
    return Inspection(
        source,
        files=sorted(files | {finding.file for finding in findings}),
        findings=findings,
        facts={name: facts[name] for name in kept},
        intensity=guess_intensity([facts[case.name] for case in source.cases if case.name in facts], source.channels),
        slices={name: slices[name] for name in kept if name in slices},
    )


Outcome = tuple[str, tuple[Finding, ...], Facts | None, Slice | None]


def _inspect_case(case: SourceCase, channels: Sequence[str], known: Sequence[int], match: bool) -> Outcome:
    judged = judge_case(case, channels, known, match)
    middle = None if judged.image is None else _middle(judged.image, judged.label)
    return case.name, judged.findings, judged.facts, middle


def _on_death(case: SourceCase) -> Outcome:
    return case.name, (process_died(case),), None, None


def _middle(image: Volume, label: np.ndarray | None) -> Slice:
    """The middle axial slice, or the one in the middle of the labels."""
    ras = to_ras(Volume(image.array[:1], image.affine))
    labels = None if label is None else to_ras(Volume(label[None], image.affine)).array[0]
    at = ras.shape[2] // 2
    if labels is not None and labels.any():
        at = int(np.median(np.flatnonzero(labels.any(axis=(0, 1)))))
    step = max(1, -(-max(ras.shape[:2]) // _MAX_SIDE))
    x, y, _ = ras.spacing * step
    part = np.s_[::step, ::step, at]
    picture = ras.array[0][part].astype(np.float32)
    return Slice(picture, None if labels is None else np.ascontiguousarray(labels[part]), (float(x), float(y)))


def _volumes(labelled: Sequence[Facts], value: int) -> dict[str, float]:
    """The number of cases with a label, and a summary of its volume in ml."""
    volumes = [[facts.labels[value].volume / 1000] for facts in labelled if value in facts.labels]
    return {"cases": len(volumes), **_summaries(volumes)[0]}


def _summaries(rows: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Minimum, median and maximum of each column."""
    return [
        {name: float(f"{how(column):.6g}") for name, how in (("min", min), ("median", np.median), ("max", max))}
        for column in zip(*rows, strict=True)
    ]

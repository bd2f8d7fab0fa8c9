"""Read every file of a source once: what is wrong, what `prepare` will do about it, and what the scans are like."""

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

MAX_SLICES = 48  # scans of which a middle slice is kept
_MAX_SIDE = 192  # pixels along a side of it


@dataclass(frozen=True, eq=False)
class Slice:
    """The middle axial slice of a case: (X, Y) float32 of the first channel, its labels, and its pixel size in mm."""

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in a source."""

    source: Source  # the source
    files: list[str]  # every file of every case, and every other file with a finding
    findings: list[Finding]  # by file
    facts: dict[str, Facts]  # of each case that is not left out, by name
    intensity: str  # ``ct`` or ``mr``, as guessed
    slices: dict[str, Slice] = field(default_factory=dict)  # of some of these cases, evenly spaced

    @property
    def sound(self) -> bool:
        """Whether nothing is left out and nothing is in doubt."""
        return sound(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        of_file: dict[str, list[dict[str, str]]] = {file: [] for file in self.files}
        for one in self.findings:
            of_file[one.file].append({"kind": one.kind, "reason": one.reason, "action": one.action})
        scans = [{"file": file, "findings": findings} for file, findings in of_file.items()]
        return {"scans": scans, "fingerprint": self.fingerprint()}

    def complete(self) -> list[Facts]:
        """The facts of the cases that lack no channel."""
        return [facts for facts in self.facts.values() if len(facts.percentiles) == len(self.source.channels)]

    def fingerprint(self) -> dict[str, Any]:
        """What the scans are like, in numbers, without those left out."""
        each = list(self.facts.values())
        labelled = [facts for facts in each if facts.labels]
        values = sorted({value for facts in labelled for value in facts.labels})
        return {
            "cases": len(each),
            "labelled": len(labelled),
            "intensity": self.intensity,
            "channels": list(self.source.channels),
            "orientations": dict(Counter(facts.orientation for facts in each).most_common()),
            "spacing_mm": _summaries([facts.spacing for facts in each]),
            "shape": _summaries([facts.shape for facts in each]),
            "intensity_percentiles": {
                channel: dict(zip(map("{:g}".format, PERCENTILES), _summaries(seen), strict=True))
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
    """Read every file of a source once; arguments and errors as of `voxmim.inspect`."""
    source = open_source(path)
    with_slice = {case.name for case in source.cases[:: max(1, -(-len(source.cases) // MAX_SLICES))]}
    findings, facts, slices = list(source.findings), {}, {}
    one = partial(_inspect_case, channels=source.channels, known=tuple(source.labels), match=match_channels)
    with closing(run(one, source.cases, workers, scheduler, _on_death)) as outcomes:
        for done, (name, found, measured, middle) in enumerate(outcomes, start=1):
            findings += found
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
    """In how many cases a label is, and its volume there in ml."""
    seen = [[facts.labels[value].volume / 1000] for facts in labelled if value in facts.labels]
    return {"cases": len(seen), **_summaries(seen)[0]}


def _summaries(rows: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Minimum, median and maximum of each column."""
    return [
        {name: float(f"{how(column):.6g}") for name, how in (("min", min), ("median", np.median), ("max", max))}
        for column in zip(*rows, strict=True)
    ]

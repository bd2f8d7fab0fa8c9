"""Findings from comparing cases with each other, without reading files again."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.doctor.mirrors import MIN_CASES, mirrored_labels, mirrored_scans
from voxmim.doctor.modality import guess_intensity, rule_misfit
from voxmim.findings import Finding, in_order
from voxmim.sources import SourceCase

_OUTLIER_RATIO = 3.0  # of a voxel size to the median
_OUTLIER_STDS = 4.0  # robust standard deviations of the logarithm
_SIDES = ("left and right", "front and back", "top and bottom")
Rank = tuple[bool, bool, str]


def judge_cohort(
    cases: Sequence[SourceCase], facts: Mapping[str, Facts], channels: Sequence[str], labels: Mapping[int, str],
    intensity: str = "auto",
) -> list[Finding]:  # fmt: skip
    """Compare the cases that have `facts` (by case name), which are those that were not left out.

    `labels` are those that the source lists; an `intensity` of ``auto`` is guessed from the facts.
    """
    cases = [case for case in cases if case.name in facts]
    kind = guess_intensity([facts[case.name] for case in cases], channels) if intensity == "auto" else intensity
    duplicates = list(_duplicates(cases, facts))
    dropped = left_out(cases, duplicates)
    cases = [case for case in cases if case.name not in dropped]
    facts = {case.name: facts[case.name] for case in cases}
    findings = [*duplicates, *_spacing_outliers(cases, facts), *_mirrored(cases, facts), *_divided_patients(cases)]
    for case in cases:
        if (why := rule_misfit(facts[case.name], kind)) is not None:
            text = f"it is taken for {kind.upper()}, but {why}."
            findings.append(Finding.of(case.images[0], "intensity rule", text, "used"))
    return in_order([*findings, *([] if labels else _rare_labels(cases, facts))])


def left_out(cases: Sequence[SourceCase], findings: Sequence[Finding]) -> dict[str, str]:
    """The reason for each case whose scan is left out by these findings, by case name."""
    reasons = {finding.file: finding.reason for finding in findings if finding.action == "left out"}
    of_case = {case.name: [reasons[str(image)] for image in case.images if str(image) in reasons] for case in cases}
    return {name: found[0] for name, found in of_case.items() if found}


def duplicate_rank(name: str, has_label_file: bool, facts: Facts) -> Rank:
    """The rank of a scan among duplicates, of which the lowest is kept: a labelled one, or else the first by name."""
    return not facts.labels, not has_label_file, name


def _duplicates(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    same = defaultdict(list)
    for case in cases:
        same[facts[case.name].content].append(case)
    for twins in same.values():
        kept, *others = sorted(
            twins, key=lambda case: duplicate_rank(case.name, case.label is not None, facts[case.name])
        )
        for case in others:
            also = " (and a label map of its own)" if case.label is not None else ""
            yield Finding.of(case.images[0], "duplicate", f"it has the same voxels as {kept.images[0]}{also}.")


def _spacing_outliers(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    if len(cases) < MIN_CASES:
        return
    sizes = np.log([facts[case.name].spacing for case in cases])
    median = np.median(sizes, axis=0)
    off = np.abs(sizes - median)
    std = 1.4826 * np.median(off, axis=0)
    for case, size, own_off in zip(cases, sizes, off, strict=True):
        if np.any((own_off > np.log(_OUTLIER_RATIO)) & (own_off > _OUTLIER_STDS * std)):
            own, others = (" x ".join(f"{each:.3g}" for each in np.exp(three)) for three in (size, median))
            text = f"its voxels are {own} mm, those of the other scans {others} mm."
            yield Finding.of(case.images[0], "spacing outlier", text, "used")


def _mirrored(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    scans, labels = mirrored_scans(facts), mirrored_labels(facts)
    for case in cases:
        axes = scans.get(case.name, set())
        for file, kind, what, swapped in (
            (case.images[0], "wrong orientation", "scans", axes),
            (case.label, "flipped label", "label maps", labels.get(case.name, set()) - axes),
        ):
            if swapped:
                sides = " and ".join(_SIDES[axis] for axis in sorted(swapped))
                yield Finding.of(file, kind, f"compared with the other {what}, {sides} are swapped.", "used")


def _divided_patients(cases: Sequence[SourceCase]) -> Iterator[Finding]:
    """Scans of patients with scans in several of train (with unlabelled), val and test."""
    splits = defaultdict(set)
    for case in cases:
        if case.group:
            splits[case.group].add("train" if case.split == "unlabelled" else case.split)
    for case in cases:
        if len(splits.get(case.group, ())) > 1:
            others = ", ".join(sorted(splits[case.group] - {case.split}))
            text = f"it is in {case.split}, its patient also in {others}."
            yield Finding.of(case.images[0], "patient in two splits", text, "used")


def _rare_labels(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    count = Counter(value for each in facts.values() for value in each.labels)
    labelled = [case for case in cases if facts[case.name].labels]
    for case in labelled if len(labelled) > 1 else ():
        if rare := sorted(value for value in facts[case.name].labels if count[value] == 1):
            text = f"no other case has label value {', '.join(map(str, rare))}; is it meant?"
            yield Finding.of(case.label, "rare label", text, "used")

"""The judgement over all cases: what shows only beside the others. No file is read again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.doctor.mirrors import FEWEST, mirrored_labels, mirrored_scans
from voxmim.doctor.modality import guess_intensity, rule_misfit
from voxmim.findings import Action, Finding, in_order
from voxmim.sources import SourceCase

_TIMES = 3.0  # a voxel size this many times the median is an outlier, if it is rare
_RARE = 4.0  # deviations (of the logarithm, robustly taken) from the median
_SIDES = ("left and right", "front and back", "top and bottom")


def judge_cohort(
    cases: Sequence[SourceCase], facts: Mapping[str, Facts], channels: Sequence[str], labels: Mapping[int, str],
    intensity: str = "auto",
) -> list[Finding]:  # fmt: skip
    """What is found of the cases that were not left out, given the facts of each.

    Args:
        cases: of the source; those without facts are passed over.
        facts: by the case's name.
        channels: the name of each channel of the source.
        labels: the labels that the source lists; empty if it lists none.
        intensity: the rule that the scans are prepared by; ``auto`` guesses it of the facts, as `prepare` does.
    """
    known = [case for case in cases if case.name in facts]
    kind = guess_intensity([facts[case.name] for case in known], channels) if intensity == "auto" else intensity
    doubled = list(_duplicates(known, facts))
    gone = {finding.file for finding in doubled}
    known = [case for case in known if str(case.images[0]) not in gone]
    facts = {case.name: facts[case.name] for case in known}
    found = [
        *doubled,
        *_spacing_outliers(known, facts),
        *_other_intensities(known, facts, kind),
        *_mirrored(known, facts),
        *_divided_patients(known),
        *([] if labels else _rare_labels(known, facts)),
    ]
    return in_order(found)


def left_out(cases: Sequence[SourceCase], findings: Sequence[Finding]) -> dict[str, str]:
    """Of each case whose scan is left out by these findings, the reason."""
    reasons = {finding.file: finding.reason for finding in findings if finding.action == "left out"}
    found = {}
    for case in cases:
        reason = next((reasons[str(image)] for image in case.images if str(image) in reasons), None)
        if reason is not None:
            found[case.name] = reason
    return found


def _on_scan(case: SourceCase, kind: str, text: str, action: Action = "used") -> Finding:
    return Finding(str(case.images[0]), kind, f"{case.images[0]}: {text}", action)


def _on_label(case: SourceCase, kind: str, text: str) -> Finding:
    return Finding(str(case.label), kind, f"{case.label}: {text}", "used")


def _duplicates(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Of scans with the same voxels, a labelled one is kept, or else the first by name."""
    same = defaultdict(list)
    for case in cases:
        same[facts[case.name].content].append(case)
    for twins in same.values():
        kept, *others = sorted(twins, key=lambda case: (not facts[case.name].labels, case.label is None, case.name))
        for case in others:
            also = " (and a label map of its own)" if case.label is not None else ""
            yield _on_scan(case, "duplicate", f"it has the same voxels as {kept.images[0]}{also}.", "left out")


def _spacing_outliers(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    if len(cases) < FEWEST:
        return
    sizes = np.log([facts[case.name].spacing for case in cases])
    usual = np.median(sizes, axis=0)
    off = np.abs(sizes - usual)
    spread = 1.4826 * np.median(off, axis=0)
    for case, own in zip(cases, off, strict=True):
        if np.any((own > np.log(_TIMES)) & (own > _RARE * spread)):
            has, have = (" x ".join(f"{size:.3g}" for size in np.exp(three)) for three in (
                np.log(facts[case.name].spacing), usual))  # fmt: skip
            yield _on_scan(case, "spacing outlier", f"its voxels are {has} mm, those of the other scans {have} mm.")


def _other_intensities(cases: Sequence[SourceCase], facts: Mapping[str, Facts], kind: str) -> Iterator[Finding]:
    for case in cases:
        if (why := rule_misfit(facts[case.name], kind)) is not None:
            yield _on_scan(case, "intensity rule", f"it is taken for {kind.upper()}, but {why}.")


def _mirrored(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    scans, labels = mirrored_scans(facts), mirrored_labels(facts)
    for case in cases:
        both = scans.get(case.name, set())
        if both:
            sides = " and ".join(_SIDES[axis] for axis in sorted(both))
            yield _on_scan(case, "wrong orientation", f"against the other scans, {sides} are swapped.")
        if alone := labels.get(case.name, set()) - both:
            sides = " and ".join(_SIDES[axis] for axis in sorted(alone))
            yield _on_label(case, "flipped label", f"against the label maps of the other cases, {sides} are swapped.")


def _divided_patients(cases: Sequence[SourceCase]) -> Iterator[Finding]:
    """Scans of a patient who stands in several of train, val and test; unlabelled ones are trained on, too."""
    sides = defaultdict(set)
    for case in cases:
        if case.group:
            sides[case.group].add("train" if case.split == "unlabelled" else case.split)
    for case in cases:
        if len(sides.get(case.group, ())) > 1:
            others = ", ".join(sorted(sides[case.group] - {case.split}))
            yield _on_scan(case, "patient in two splits", f"it is in {case.split}, but its patient in {others}, too.")


def _rare_labels(cases: Sequence[SourceCase], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    seen = Counter(value for each in facts.values() for value in each.labels)
    labelled = [case for case in cases if facts[case.name].labels]
    for case in labelled if len(labelled) > 1 else ():
        if alone := sorted(value for value in facts[case.name].labels if seen[value] == 1):
            listed = ", ".join(map(str, alone))
            yield _on_label(case, "rare label", f"no other case has label value {listed}; is it meant?")

"""Cases are compared with each other by their facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxmim.doctor.cohort import judge_cohort, left_out
from voxmim.doctor.facts import Facts, LabelFacts, measure
from voxmim.findings import Finding
from voxmim.images.volume import Volume
from voxmim.sources import SourceCase

LABELS = {1: LabelFacts(10.0, (0.5, 0.5, 0.5))}


def cohort(count: int, spacing: float = 1.0) -> tuple[list[SourceCase], dict[str, Facts]]:
    cases, facts = [], {}
    for index in range(count):
        array = np.random.default_rng(index).integers(-1000, 1000, (1, 8, 8, 8)).astype(np.int16)
        name = f"case_{index}"
        cases.append(SourceCase(name, (Path(f"{name}.nii"),), None, "train", group=name))
        facts[name] = measure(Volume(array, np.diag([spacing, 1, 1, 1])))
    return cases, facts


def judge(cases: list[SourceCase], facts: dict[str, Facts]) -> list[tuple[str, str]]:
    return [(finding.file, finding.kind) for finding in judge_cohort(cases, facts, ("CT",), {})]


def test_similar_cases_have_no_finding() -> None:
    assert judge(*cohort(12)) == []
    assert judge([], {}) == []


@pytest.mark.parametrize(("labelled", "kept"), [("", "case_1"), ("4", "case_4"), ("14", "case_1")])
def test_the_first_labelled_duplicate_is_kept_or_else_the_first(labelled: str, kept: str) -> None:
    cases, facts = cohort(6)
    for name in ("case_3", "case_4"):
        facts[name] = facts["case_1"]
    for name in (f"case_{number}" for number in labelled):
        facts[name] = replace(facts[name], labels=LABELS)
    findings = judge_cohort(cases, facts, ("CT",), {1: "liver"})
    assert {Path(finding.file).stem for finding in findings} == {"case_1", "case_3", "case_4"} - {kept}
    assert {(finding.kind, finding.action) for finding in findings} == {("duplicate", "left out")}
    assert left_out(cases, findings) == {Path(finding.file).stem: finding.reason for finding in findings}
    assert all(f"{kept}.nii" in finding.reason for finding in findings)


@pytest.mark.parametrize(
    ("factor", "count", "reported"), [(3.5, 12, True), (0.2, 12, True), (2.5, 12, False), (9, 4, False)]
)
def test_a_rare_voxel_size_is_reported_if_there_are_enough_scans(factor: float, count: int, reported: bool) -> None:
    cases, facts = cohort(count)
    facts["case_2"] = replace(facts["case_2"], spacing=(1.0, 1.0, factor))
    assert judge(cases, facts) == ([("case_2.nii", "spacing outlier")] if reported else [])


def test_varying_voxel_sizes_are_not_reported() -> None:
    cases, facts = cohort(12)
    for index, name in enumerate(facts):
        facts[name] = replace(facts[name], spacing=(1.0, 1.0, (0.6, 1.0, 2.5, 5.0)[index % 4]))
    assert judge(cases, facts) == []


def test_patients_in_two_splits_are_reported_and_unlabelled_scans_count_as_train() -> None:
    cases, facts = cohort(6)
    sides = [("p", "train"), ("p", "unlabelled"), ("q", "unlabelled"), ("q", "test"), ("r", "val"), ("r", "val")]
    cases = [replace(case, group=group, split=split) for case, (group, split) in zip(cases, sides, strict=True)]
    assert judge(cases, facts) == [(f"case_{i}.nii", "patient in two splits") for i in (2, 3)]


def test_a_duplicate_in_another_split_is_reported_only_as_a_duplicate() -> None:
    cases, facts = cohort(4)
    cases[0] = replace(cases[0], group="p")
    cases[1] = replace(cases[1], group="p", split="test")
    facts["case_1"] = facts["case_0"]
    assert judge(cases, facts) == [("case_1.nii", "duplicate")]


def test_the_intensity_rule_of_the_source_is_used() -> None:
    cases, facts = cohort(3)
    findings = judge_cohort(cases, facts, ("T1",), {}, "mr")
    assert [finding.kind for finding in findings] == ["intensity rule"] * 3
    assert all(finding.unresolved for finding in findings)


def test_a_finding_is_in_doubt_only_if_its_scan_is_used() -> None:
    assert Finding("f", "flipped label", "f: it is.", "used").unresolved
    assert not Finding("f", "flipped label", "f: it is.", "left out").unresolved
    assert not Finding("f", "tiny", "f: it is.", "used").unresolved

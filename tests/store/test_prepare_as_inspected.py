"""`prepare` and `inspect` give the same findings, and cases that were left out are tried again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scan_files import add_pair, cut, moved, scan, write, write_pairs
from voxmim.doctor.inspect import Inspection, inspect_source
from voxmim.store.format import Store
from voxmim.store.prepare import PrepareResult, prepare
from voxmim.store.writing import written_cases


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid cases, and one with each kind of finding: in a file, in a label map, and in comparison with others."""
    source = write_pairs(tmp_path_factory.mktemp("source"), 6)
    cut(add_pair(source, "cut", *scan(20))[0])
    add_pair(source, "nan", np.where(scan(21)[0] > 100, np.nan, scan(21)[0]).astype(np.float32), scan(21)[1])
    add_pair(source, "rounded", *scan(22), label_affine=moved(0.1))
    add_pair(source, "unknown", scan(23)[0], np.where(scan(23)[1] == 2, 9, 0).astype(np.uint8))
    add_pair(source, "flipped", scan(24)[0], scan(24)[1][::-1])
    write(source / "imagesTr" / "copied.mha", scan(1)[0])
    return source


@pytest.fixture(scope="module")
def inspection(source: Path) -> Inspection:
    return inspect_source(source, workers=1)


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> PrepareResult:
    return prepare(source, tmp_path_factory.mktemp("out") / "store", (1.0, 1.2, 1.5), workers=1, quiet=True)


def test_prepare_and_inspect_agree_on_findings_cases_and_facts(inspection: Inspection, prepared: PrepareResult) -> None:
    store = Store(prepared.store)
    assert {finding.kind for finding in inspection.findings} == {
        "cut off", "not finite", "other grid", "unknown label", "flipped label", "duplicate",
    }  # fmt: skip
    assert prepared.findings == inspection.findings == store.findings
    assert store.cases.keys() == inspection.facts.keys()
    assert {case.name: case.facts for case in written_cases(store.path)} == inspection.facts


def test_the_json_of_an_inspection_lists_all_files(inspection: Inspection) -> None:
    values = json.loads(json.dumps(inspection.as_dict()))
    assert {scan["file"] for scan in values["scans"]} == set(inspection.files)
    assert sum(len(scan["findings"]) for scan in values["scans"]) == len(inspection.findings)
    assert all(set(one) == {"kind", "reason", "action"} for scan in values["scans"] for one in scan["findings"])
    assert values["fingerprint"]["cases"] == len(inspection.facts)


def test_preparing_again_retries_cases_left_out_and_changes_nothing(source: Path, prepared: PrepareResult) -> None:
    again = prepare(source, prepared.store, workers=1, quiet=True)
    assert again.findings == prepared.findings
    assert sorted(again.failed) == sorted(prepared.failed)
    assert again.prepared == 0
    files = {file.name.removesuffix(".b2nd") for file in (prepared.store / "images").glob("[!.]*")}
    assert Store(again.store).cases.keys() == files

"""The torture folder: every fault is found, no good scan is blamed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from torture import Torture, make_torture
from voxmim.doctor.inspect import Inspection, inspect_source
from voxmim.findings import KINDS
from voxmim.store.format import Store
from voxmim.store.prepare import PrepareResult, prepare, prepare_scan
from voxmim.store.writing import written_cases


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    return make_torture(tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="module")
def inspections(torture: Torture) -> dict[str, Inspection]:
    return {name: inspect_source(source, workers=1) for name, source in torture.sources.items()}


@pytest.fixture(scope="module")
def prepared(torture: Torture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrepareResult]:
    out = tmp_path_factory.mktemp("stores")
    return {
        name: prepare(source, out / name, (1.0, 1.2, 1.5), workers=1, quiet=True)
        for name, source in torture.sources.items()
    }


def test_every_fault_is_found_and_no_good_scan_is_blamed(torture: Torture, inspections: dict[str, Inspection]) -> None:
    found: dict[str, set[str]] = {}
    for inspection in inspections.values():
        for finding in inspection.findings:
            found.setdefault(finding.file, set()).add(finding.kind)
            assert finding.reason.startswith(f"{finding.file}: ")
            assert finding.reason.endswith((".", "?"))
            assert "\n" not in finding.reason
    wrong = {file: (found.get(file), torture.kinds.get(file)) for file in found.keys() | torture.kinds.keys()}
    assert {Path(file).name: pair for file, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert sum(len(inspection.files) for inspection in inspections.values()) >= 80


def test_every_kind_of_a_file_is_among_them(torture: Torture) -> None:
    found = set().union(*torture.kinds.values())
    elsewhere = {"failed", "label", "name"}  # of want of memory, and of names that BIDS does not know
    assert found == KINDS.keys() - elsewhere


def test_inspect_lists_every_file_in_its_json(inspections: dict[str, Inspection]) -> None:
    for inspection in inspections.values():
        told = json.loads(json.dumps(inspection.as_dict()))
        assert {scan["file"] for scan in told["scans"]} == set(inspection.files)
        count = sum(len(scan["findings"]) for scan in told["scans"])
        assert count == len(inspection.findings)
        assert all(set(one) == {"kind", "reason", "action"} for scan in told["scans"] for one in scan["findings"])
        assert told["fingerprint"]["cases"] == len(inspection.facts)


def test_prepare_judges_as_inspect_does(inspections: dict[str, Inspection], prepared: dict[str, PrepareResult]) -> None:
    for name, result in prepared.items():
        store = Store(result.store)
        assert result.findings == inspections[name].findings == store.findings
        assert store.cases.keys() == inspections[name].facts.keys()
        assert {case.name: case.facts for case in written_cases(store.path)} == inspections[name].facts


def test_every_good_scan_is_kept_and_its_marker_stays_in_its_place(
    torture: Torture, prepared: dict[str, PrepareResult]
) -> None:
    count = 0
    for source, scans in torture.good.items():
        store = Store(prepared[source].store)
        for name, file in scans.items():
            case = store.cases[name]
            image = store.image(name)[case.image.index(str(file))].astype(float)
            grid = prepare_scan(case.image, store.preparation).grid
            hot = np.argwhere(image > 0.6 * image.max())
            where = np.average(hot, axis=0, weights=image[tuple(hot.T)])
            found = (grid.affine @ [*where, 1])[:3]
            assert np.linalg.norm(found - torture.marks[file]) < 1.0, (name, found)
            count += 1
    assert count >= 40


def test_preparing_again_changes_nothing_but_tries_what_was_left_out(
    torture: Torture, prepared: dict[str, PrepareResult]
) -> None:
    before = prepared["pairs"]
    again = prepare(torture.path / "pairs", before.store, workers=1, quiet=True)
    assert again.findings == before.findings
    assert again.failed == before.failed
    assert again.prepared < before.prepared
    assert Store(again.store).cases.keys() == {
        case.stem.removesuffix(".b2nd") for case in (before.store / "images").glob("[!.]*")
    }

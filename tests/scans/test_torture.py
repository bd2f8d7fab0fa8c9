"""The torture folder: every fault is found, no good scan is blamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import Torture, make_torture
from voxmim.scans.inspect import Inspection, inspect_source


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    return make_torture(tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="module")
def inspections(torture: Torture) -> dict[str, Inspection]:
    return {source.name: inspect_source(source, workers=1) for source in sorted(torture.path.iterdir())}


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

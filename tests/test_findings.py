from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from voxmim.findings import DOUBTFUL, KINDS, Finding, in_order, sound

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "data.md"


def test_the_docs_list_every_kind_of_finding_and_those_in_doubt() -> None:
    section = PAGE.read_text().split("## The data doctor")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    documented = {kind: row for row in rows for kind in re.findall("`([^`]+)`", row.split("|")[1])}
    assert documented.keys() == KINDS.keys()
    assert {kind for kind, row in documented.items() if "**in doubt**" in row} == DOUBTFUL


def test_every_kind_of_finding_has_a_test() -> None:
    tests = "".join(
        file.read_text() for folder in ("doctor", "sources", "store") for file in (HERE / folder).glob("*.py")
    )
    assert [kind for kind in KINDS if f'"{kind}"' not in tests] == []


def test_findings_survive_json_and_are_unique_per_file() -> None:
    one, other = Finding("b", "tiny", "b: it is.", "used"), Finding("a", "constant", "a: it is.", "left out")
    assert Finding(**json.loads(json.dumps(asdict(one)))) == one
    assert in_order([one, other, one]) == [other, one]


def test_files_that_are_not_scans_do_not_count_as_lost() -> None:
    assert sound(
        [Finding("a", "tiny", "", "used"), Finding("b", "4D", "", "repaired"), Finding("c", "no scan", "", "left out")]
    )
    assert not sound([Finding("a", "constant", "", "left out")])
    assert not sound([Finding("a", "flipped label", "", "used")])
